"""Libraries of the distribution in a tree: which they are, and what their distribution promises.

Only such a library may have code beyond the target's features, where that is shown to run only on CPUs that have them.
What is compiled here never may.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Packaged:
    """A library as the distribution's package has it."""

    package: str
    version: str
    sha256: str
    """Of the file in the package, before strip and patchelf."""
    code: str
    """Of what is executable in it (`elf.code.code_digest`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """What is known of a tree's libraries."""

    baseline: str
    """The microarchitecture that the distribution compiles for, by archspec name."""
    libraries: Mapping[str, Packaged] = field(default_factory=dict)
    """By path in the tree."""
    strangers: Mapping[str, str] = field(default_factory=dict)
    """Libraries that came from the image and are not its distribution's, by path in the tree, and why not."""
