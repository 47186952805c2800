"""From what was asked for, as typed, to cells of the matrix; what selects nothing is told why. Pure."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pikaforge.config.scalars import EVERYTHING
from pikaforge.config.schema import Spec
from pikaforge.errors import ConfigError
from pikaforge.plan.cells import Cell
from pikaforge.plan.plan import Combinations, cell_of, combinations


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What was asked for, as typed."""

    selectors: tuple[str, ...]
    os: str = ""
    """An image, `all`, or empty for the default."""
    allocator: str = ""
    """An allocator, `all`, or empty for the image's default."""
    host_image: str = ""
    """The image that matches this machine, if any."""
    engine: Literal["docker", "host"] = "docker"


def closest(word: str, known: Iterable[str]) -> str:
    """A hint with the known names that are most like `word`; empty if none is."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else ""


def _axis_value(spec: Spec, kind: str, value: str, known: Iterable[str]) -> None:
    names = list(known)
    if value and value != EVERYTHING and value not in names:
        raise ConfigError(
            f"there is no {kind} {value!r}",
            where=f"--{'os' if kind == 'image' else kind}",
            hint=closest(value, names) or f"known: {', '.join(names)}",
        )


def select(spec: Spec, selection: Selection) -> tuple[Cell, ...]:
    """The cells that a selection names, in the matrix's order, once each.

    Raises:
        ConfigError: a selector, image or allocator is unknown or selects nothing.
    """
    _axis_value(spec, "image", selection.os, spec.images)
    _axis_value(spec, "allocator", selection.allocator, spec.allocators)
    if not selection.selectors:
        raise ConfigError(
            "nothing is selected",
            hint="name a model, a cell id, a glob over ids or `all`: `nox -s build -- R620`",
        )
    matrix = combinations(spec)
    ids = {"-".join(triple): triple for triple in matrix.triples}
    chosen: dict[tuple[str, str, str], None] = {}
    for selector in selection.selectors:
        found = _select_one(spec, selection, selector, ids)
        if not found:
            raise _nothing(spec, selection, selector, matrix, ids)
        chosen.update(dict.fromkeys(found))
    ordered = [triple for triple in matrix.triples if triple in chosen]
    if selection.engine == "host":
        _refuse_foreign_images(selection, ordered)
    return tuple(cell_of(spec, triple) for triple in ordered)


def _refuse_foreign_images(selection: Selection, triples: Sequence[tuple[str, str, str]]) -> None:
    foreign = sorted({image for _, image, _ in triples if image != selection.host_image})
    if foreign:
        here = f"this machine is {selection.host_image}" if selection.host_image else "no image matches this machine"
        raise ConfigError(
            f"the host engine builds only for the machine it runs on; {here}, not {', '.join(foreign)}",
            where="--engine host",
            hint="use a container engine for other images, or run on a machine with that OS",
        )


def _wanted_images(spec: Spec, selection: Selection) -> set[str]:
    if selection.os == EVERYTHING:
        return set(spec.images)
    return {selection.os or selection.host_image or spec.defaults.image}


def _wanted_allocators(spec: Spec, selection: Selection, image: str) -> set[str]:
    if selection.allocator == EVERYTHING:
        return set(spec.allocators)
    return {selection.allocator or spec.images[image].allocator}


def _fits_options(selection: Selection, triple: tuple[str, str, str]) -> bool:
    _, image, allocator = triple
    return selection.os in ("", EVERYTHING, image) and selection.allocator in ("", EVERYTHING, allocator)


def _select_one(
    spec: Spec, selection: Selection, selector: str, ids: dict[str, tuple[str, str, str]]
) -> list[tuple[str, str, str]]:
    if selector in ids:  # an id says all; options that contradict it select nothing
        return [ids[selector]] if _fits_options(selection, ids[selector]) else []
    if selector == EVERYTHING or selector in spec.hardware:
        images = _wanted_images(spec, selection)
        return [
            (m, i, a)
            for m, i, a in ids.values()
            if selector in (EVERYTHING, m) and i in images and a in _wanted_allocators(spec, selection, i)
        ]
    return [
        triple
        for name, triple in ids.items()
        if fnmatch.fnmatchcase(name, selector) and _fits_options(selection, triple)
    ]


def _nothing(
    spec: Spec,
    selection: Selection,
    selector: str,
    matrix: Combinations,
    ids: dict[str, tuple[str, str, str]],
) -> ConfigError:
    """Why `selector` names no cell."""
    named = any(fnmatch.fnmatchcase(name, selector) for name in ids)
    matched = [
        rule
        for triple, rule in matrix.excluded.items()
        if fnmatch.fnmatchcase("-".join(triple), selector) and (not named or _fits_options(selection, triple))
    ]
    if matched:
        reasons = dict.fromkeys(rule.reason for rule in matched if rule.reason)
        return ConfigError(
            f"the matrix excludes {selector}" + (f": {'; '.join(reasons)}" if reasons else ""),
            where="matrix.exclude",
            hint="add it under matrix.include, or choose another cell",
        )
    if selector in spec.hardware or selector == EVERYTHING:
        return _nothing_of_model(spec, selection, selector, matrix)
    if named:
        options = (("--os", selection.os), ("--allocator", selection.allocator))
        given = " and ".join(f"{option} {value}" for option, value in options if value not in ("", EVERYTHING))
        return ConfigError(
            f"{selector} and {given} exclude one another",
            where="SELECTOR",
            hint="a cell id or glob names image and allocator itself: leave the option out",
        )
    return ConfigError(
        f"no model, cell id or glob matches {selector!r}",
        where="SELECTOR",
        hint=closest(selector, [*spec.hardware, *ids]) or "see `nox -s matrix -- --format table`",
    )


def _nothing_of_model(spec: Spec, selection: Selection, selector: str, matrix: Combinations) -> ConfigError:
    images = _wanted_images(spec, selection)
    reasons = {
        rule.reason
        for (model, image, allocator), rule in matrix.excluded.items()
        if selector in (EVERYTHING, model)
        and image in images
        and allocator in _wanted_allocators(spec, selection, image)
        and rule.reason
    }
    return ConfigError(
        f"the matrix has no cell {selector} with image {', '.join(sorted(images))} and allocator "
        f"{selection.allocator or '(the default)'}",
        where="matrix",
        hint="\n".join([*sorted(reasons), "see `nox -s matrix -- --format table`"]),
    )
