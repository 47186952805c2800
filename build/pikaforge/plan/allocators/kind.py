"""The seam of allocators: all that the rest of the tool needs to know of a kind of them.

A member is listed in `config.registry.ALLOCATORS`. It says what an entry of `allocators` in matrix.yaml must hold, what
is built for it, how the product's build uses it, and how its presence in files and processes is detected.
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
    """What an allocator prints of itself when a program ends."""

    environment: Mapping[str, str]
    """Variables that make it do so."""
    total: re.Pattern[str]
    """Finds, as its one group, how many bytes it has got from the system."""

    def served(self, log: str) -> int | None:
        """Return the bytes that it has got from the system, by a program's log; None if it has printed nothing."""
        totals = self.total.findall(log)
        return int(totals[-1]) if totals else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """How an allocator is seen in files and processes."""

    title: str
    """For people."""
    libraries: tuple[str, ...]
    """Globs of the sonames of all of its libraries that take malloc over."""
    whole: tuple[str, ...]
    """Of those, the ones that a product may be linked with."""
    symbols: tuple[bytes, ...] = ()
    """Functions that only it has: such a name in a program means that it is built in."""
    link: str
    """What a recipe links with."""
    statistics: Statistics | None = None

    @property
    def unused(self) -> str:
        """Return the sentence for a product that does not use it."""
        return f"Compiled, but {self.title} not used"

    @property
    def library(self) -> str:
        """Return the name of the library that a product should need, for people."""
        return self.whole[0].rstrip("*")

    def is_whole(self, name: str) -> bool:
        """Return whether a product may be linked with a library, by its file name or soname."""
        return matches(name, self.whole)


def matches(name: str, globs: tuple[str, ...]) -> bool:
    """Return whether the last part of a path matches one of the globs."""
    last = name.rpartition("/")[2]
    return any(fnmatch.fnmatchcase(last, glob) for glob in globs)


class AllocatorKind(AllocatorOption, Protocol):
    """A kind of allocators."""

    @property
    def presence(self) -> Presence | None:
        """How it is seen; None if no library may take malloc over."""

    @property
    def scripts(self) -> tuple[str, ...]:
        """Guest scripts that build it; the first one is run, and uses the others."""

    @property
    def licence(self) -> str:
        """SPDX expression, for packages of what is built."""

    @property
    def url(self) -> str:
        """The project's page, for the same."""

    def sources(self, spec: Spec, image: str, allocator: str) -> Mapping[str, Tarball]:
        """Return what is built for an image, by the folder of the guest; itself comes first. Nothing if none is."""

    def environment(self, entry: Allocator) -> Mapping[str, str]:
        """Return variables for the guest script, beside those that every build has."""

    def material(self, entry: Allocator) -> Mapping[str, str | None]:
        """Return key material of the build, beside tarballs, flags and scripts."""

    def use(self, entry: Allocator) -> Mapping[str, str]:
        """Return variables for the product's recipe, beside PIKAFORGE_ALLOCATOR and PIKAFORGE_ALLOCATOR_DIR."""

    def problem(self, spec: Spec, image: str, allocator: str) -> str:
        """Return why it cannot be built for an image, or the product not run with it; empty if it can."""

    def remark(self, spec: Spec, image: str, allocator: str) -> str:
        """Return what the operator should know of a pair that works; empty if nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotBuilt:
    """A kind for which nothing is built: it is in the image, or nowhere."""

    name: str
    about: str
    presence: Presence | None = None
    required: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    fields: Mapping[str, str] = field(default_factory=dict)
    own: bool = False
    scripts: tuple[str, ...] = ()
    licence: str = ""
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
