"""The distribution's own libraries in a tree.

Only these may hold code with features that the target lacks, if it is proven to run only on CPUs that have them. Files
that were compiled here never may.
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
    """What is known of the libraries in a tree that come from its image."""

    baseline: str
    """The microarchitecture that the distribution compiles for, by archspec name."""
    libraries: Mapping[str, Packaged] = field(default_factory=dict)
    """The distribution's own libraries, by path in the tree."""
    strangers: Mapping[str, str] = field(default_factory=dict)
    """Other libraries that come from the image, by path in the tree, with the reason why they are not its own."""
