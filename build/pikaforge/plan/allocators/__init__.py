"""Kinds of memory allocators, and what an entry of a kind means for an image. See `kind.AllocatorKind`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, cast

from pikaforge.config.registry import ALLOCATORS
from pikaforge.host.memo import for_last

if TYPE_CHECKING:  # the schema needs the kinds, so these cannot import it
    from pikaforge.config.schema import Spec, Tarball
    from pikaforge.plan.allocators.kind import AllocatorKind


def of(name: str) -> AllocatorKind:
    """Return the kind of a name; raise KeyError if there is none."""
    return cast("AllocatorKind", ALLOCATORS.get(name))


def every() -> Iterator[AllocatorKind]:
    """Return all kinds, in the order in which people read them."""
    return map(of, ALLOCATORS.names)


def built() -> tuple[str, ...]:
    """Return the names of the kinds that are built for a target."""
    return tuple(kind.name for kind in every() if kind.own)


def kind_of(spec: Spec, allocator: str) -> AllocatorKind:
    """Return the kind of an entry of `allocators`."""
    return of(spec.allocators[allocator].kind)


def sources(spec: Spec, image: str, allocator: str) -> Mapping[str, Tarball]:
    """Return the tarballs that are built for an image, by the folder of each in the job; the allocator comes first."""
    return kind_of(spec, allocator).sources(spec, image, allocator)


def adds_packages(spec: Spec, image: str, allocator: str) -> bool:
    """Return whether an allocator needs packages in an image that the product does not."""
    return _adds_packages(spec)(image, allocator)


@for_last
def _adds_packages(spec: Spec) -> Callable[[str, str], bool]:
    """Return what returns that; each pair is looked at once."""

    @cache
    def of_pair(image: str, allocator: str) -> bool:
        added = partial(spec.added_packages, image, allocator)
        return bool(added(purpose="build") or added(purpose="runtime"))

    return of_pair


def problem(spec: Spec, image: str, allocator: str) -> str:
    """Return why a cell with this image and allocator cannot be built, or would not run; empty if it can."""
    return kind_of(spec, allocator).problem(spec, image, allocator)


def remark(spec: Spec, image: str, allocator: str) -> str:
    """Return what the operator should know of an image and an allocator that work together; empty if nothing."""
    return kind_of(spec, allocator).remark(spec, image, allocator)
