"""The distribution's own libraries in a tree.

Only these may hold code with features that the target lacks, if it is proven to run only on CPUs that have them. Files
that were compiled here never may.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import Field

from pikaforge.config.scalars import Strict


class PackagedRecord(Strict):
    """A library in the tree that is the distribution's own."""

    package: str = Field(description="The package that it is from.")
    version: str = Field(description="The package's.")
    sha256: str = Field(description="Of the file in the package, before strip and patchelf.")
    code: str = Field(description="SHA-256 of what is executable in it, which these leave as it is.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """What is known of the libraries in a tree that come from its image."""

    baseline: str
    """The microarchitecture that the distribution compiles for, by archspec name."""
    libraries: Mapping[str, PackagedRecord] = field(default_factory=dict)
    """The distribution's own libraries, by path in the tree."""
    strangers: Mapping[str, str] = field(default_factory=dict)
    """Other libraries that come from the image, by path in the tree, with the reason why they are not its own."""
