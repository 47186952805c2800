"""The matrix: which combinations of model, image and allocator exist, as cells with their targets. Pure."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

from pikaforge.config import families
from pikaforge.config.scalars import EVERYTHING
from pikaforge.config.schema import Rule, Spec
from pikaforge.cpu import microarch
from pikaforge.host.machine import os_release
from pikaforge.host.memo import for_last
from pikaforge.plan import allocators
from pikaforge.plan.cells import Cell

Triple = tuple[str, str, str]
"""Model, image and allocator of a cell."""


@dataclass(slots=True)
class Combinations:
    """The matrix, expanded in the order of the axes, and what its rules leave out."""

    triples: dict[Triple, None] = field(default_factory=dict)
    excluded: dict[Triple, Rule] = field(default_factory=dict)


def _matches(rule: Rule, triple: Triple) -> bool:
    return all(
        fnmatch.fnmatchcase(value, pattern)
        for value, pattern in zip(triple, (rule.model, rule.image, rule.allocator), strict=True)
    )


def _axis(values: Sequence[str], everything: Iterable[str]) -> list[str]:
    return list(everything) if EVERYTHING in values else list(values)


def combinations(spec: Spec, *, of: Container[str] | None = None) -> Combinations:
    """Return the combinations that the axes and rules of the matrix make; only those of some models if they are given.

    A publication asks for a few of them, and each is compared with each rule.
    """
    axes = spec.matrix.axes
    found = Combinations()
    asked = [model for model in spec.hardware if of is None or model in of]
    everything = [(m, i, a) for m in asked for i in spec.images for a in spec.allocators]
    models = set(_axis(axes.model, spec.hardware))
    images = set(_axis(axes.image, spec.images))
    allocators = set(_axis(axes.allocator, spec.allocators))
    for triple in everything:
        inside = triple[0] in models and triple[1] in images and triple[2] in allocators
        if any(_matches(rule, triple) for rule in spec.matrix.include):
            found.triples[triple] = None
            continue
        if not inside:
            continue
        rule = next((rule for rule in spec.matrix.exclude if _matches(rule, triple)), None)
        if rule is None:
            found.triples[triple] = None
        else:
            found.excluded[triple] = rule
    return found


def cell_of(spec: Spec, triple: Triple) -> Cell:
    """Return the cell of a model, an image and an allocator, with its target and flags."""
    return _cells(spec)(triple)


@for_last
def _cells(spec: Spec) -> Callable[[Triple], Cell]:
    """Return what returns cells; each is made once. A plan of all of them asks for each three times."""
    return cache(partial(_new_cell, spec))


def _new_cell(spec: Spec, triple: Triple) -> Cell:
    model, image, allocator = triple
    wanted = microarch.common_target(spec.hardware[model].cpus)
    entry = spec.images[image]
    built = microarch.resolve(wanted, entry.gcc)
    target, problem, remark = wanted, "", ""
    if not built.possible and entry.fallback == "nearest":
        remark = f"{built.reason}; built for the nearest, {built.nearest}"
        target, built = built.nearest, microarch.resolve(built.nearest, entry.gcc)
    elif not built.possible:
        problem = (
            f"{built.reason}; the nearest it can produce is {built.nearest} "
            f"(`fallback: nearest` at images.{image} accepts it)"
        )
    return Cell(
        model=model,
        image=image,
        allocator=allocator,
        wanted=wanted,
        target=target,
        flags=built.flags,
        problem=_joined(problem, _said(spec)(image, allocator)[0]),
        remark=_joined(remark, _said(spec)(image, allocator)[1]),
    )


@for_last
def _said(spec: Spec) -> Callable[[str, str], tuple[str, str]]:
    """Return what returns problem and remark of an image and an allocator, which all models have in common."""
    return cache(lambda image, name: (allocators.problem(spec, image, name), allocators.remark(spec, image, name)))


def _joined(*texts: str) -> str:
    return "; ".join(text for text in texts if text)


def all_cells(spec: Spec) -> tuple[Cell, ...]:
    """Return every cell of the matrix, in the order of the axes."""
    return tuple(cell_of(spec, triple) for triple in combinations(spec).triples)


def matching_image(spec: Spec, identity: tuple[str, str] | None = None) -> str:
    """Return the name of the image whose OS this machine runs; empty if there is none.

    Args:
        spec: the specification.
        identity: ID and VERSION_ID of the machine's os-release; else they are read.
    """
    name, version = identity or os_release()
    for image, entry in spec.images.items():
        if name in families.alike(entry.os.id) and (
            version == entry.os.version or version.startswith(f"{entry.os.version}.")
        ):
            return image
    return ""
