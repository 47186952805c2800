"""The seam of allocators: what the rest of the tool needs to know of a kind of memory allocator.

Its members are listed in `config.registry.ALLOCATORS`. A member says what an entry of `allocators` in matrix.yaml must
hold, what is built for it, how the product's build uses it, and how files and processes show that they use it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pikaforge.config.registry import AllocatorOption

if TYPE_CHECKING:
    from pikaforge.config.schema import Allocator, Spec, Tarball


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """How to make an allocator print its statistics when a program ends, and how to read them."""

    environment: Mapping[str, str]
    """Variables that make it print."""
    total: re.Pattern[str]
    """Finds, as its one group, how many bytes the allocator got from the system."""

    def served(self, log: str) -> int | None:
        """Return the bytes that an allocator got from the system, by the program's log; None if it printed nothing."""
        totals = self.total.findall(log)
        return int(totals[-1]) if totals else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """How files and processes show that they use an allocator."""

    title: str
    """Its name, for people."""
    libraries: tuple[str, ...]
    """Globs of the sonames of all of its libraries that replace malloc."""
    whole: tuple[str, ...]
    """Globs of those among them that a product may be linked with."""
    symbols: tuple[bytes, ...] = ()
    """Functions that only this allocator has: a program with such a name has it built in."""
    link: str
    """The linker option for recipes."""
    statistics: Statistics | None = None

    @property
    def unused(self) -> str:
        """The error for a product that does not use it."""
        return f"Compiled, but {self.title} not used"

    @property
    def library(self) -> str:
        """The name of the library that a product should need, for people."""
        return self.whole[0].rstrip("*")

    def is_whole(self, name: str) -> bool:
        """Return whether a product may be linked with a library, by its file name or soname."""
        return matches(name, self.whole)


def matches(name: str, globs: tuple[str, ...]) -> bool:
    """Return whether the last part of a path matches one of the globs."""
    last = name.rpartition("/")[2]
    return any(fnmatch.fnmatchcase(last, glob) for glob in globs)


class AllocatorKind(AllocatorOption, Protocol):
    """A kind of memory allocator."""

    @property
    def presence(self) -> Presence | None:
        """How files and processes show that they use it; None if no library may replace malloc."""

    @property
    def scripts(self) -> tuple[str, ...]:
        """Guest scripts that build it: the one that runs, then those that it uses."""

    @property
    def licence(self) -> str:
        """SPDX expression, for the allocator's own package."""

    @property
    def other_licences(self) -> Mapping[str, str]:
        """SPDX expressions of other parts of its tree, by their folders in share/doc."""

    @property
    def url(self) -> str:
        """The project's page, for the allocator's own package."""

    def sources(self, spec: Spec, image: str, allocator: str) -> Mapping[str, Tarball]:
        """Return the tarballs to build for an image, by the folder of each in the job; empty if none is built.

        The allocator itself comes first.
        """

    def environment(self, entry: Allocator) -> Mapping[str, str]:
        """Return variables for the guest script, beside those that every build has."""

    def material(self, entry: Allocator) -> Mapping[str, str | None]:
        """Return key material of the build, beside tarballs, flags and scripts."""

    def use(self, entry: Allocator) -> Mapping[str, str]:
        """Return variables for the product's recipe, beside PIKAFORGE_ALLOCATOR and PIKAFORGE_ALLOCATOR_DIR."""

    def problem(self, spec: Spec, image: str, allocator: str) -> str:
        """Return why a cell with this image and allocator cannot be built, or would not run; empty if it can."""

    def remark(self, spec: Spec, image: str, allocator: str) -> str:
        """Return what the operator should know of an image and an allocator that work together; empty if nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotBuilt:
    """A kind of allocator that is not built: the image has it, or there is none."""

    name: str
    about: str
    presence: Presence | None = None
    required: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    fields: Mapping[str, str] = field(default_factory=dict)
    own: bool = False
    scripts: tuple[str, ...] = ()
    licence: str = ""
    other_licences: Mapping[str, str] = field(default_factory=dict)
    url: str = ""

    def check(self, entry: Allocator) -> None:
        """Accept any entry: it has no fields of its own."""

    def sources(self, spec: Spec, image: str, allocator: str) -> Mapping[str, Tarball]:
        """Return nothing."""
        return {}

    def environment(self, entry: Allocator) -> Mapping[str, str]:
        """Return nothing."""
        return {}

    def material(self, entry: Allocator) -> Mapping[str, str | None]:
        """Return nothing."""
        return {}

    def use(self, entry: Allocator) -> Mapping[str, str]:
        """Return nothing."""
        return {}

    def problem(self, spec: Spec, image: str, allocator: str) -> str:
        """Return nothing."""
        return ""

    def remark(self, spec: Spec, image: str, allocator: str) -> str:
        """Return nothing."""
        return ""


NONE = NotBuilt(name="none", about="is the C library's")
"""No allocator but the C library's."""
