"""Selectors: which cells a command works on. Pure.

A selector is a model, a cell id, a glob over cell ids, or `all`. The options `--os` and `--allocator` narrow what the
selectors name. There are two uses, with one grammar, one matcher and one set of messages:

- `select` chooses cells of the matrix, to build them. A model or `all` means the default image and that image's default
  allocator, unless an option says otherwise.
- `select_existing` chooses among cells that exist already, built or published. A model or `all` means all of them.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pikaforge.config.nearest import did_you_mean
from pikaforge.config.scalars import EVERYTHING
from pikaforge.config.schema import Spec
from pikaforge.errors import ConfigError, SelectionError
from pikaforge.plan.cells import Cell
from pikaforge.plan.matrix import Combinations, Triple, cell_of, combinations

WHERE = "SELECTOR"
"""How errors call the arguments that selectors are given in."""
SEE_MATRIX = "see `nox -s matrix -- --all`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Selectors and options, as the command line has them."""

    selectors: Sequence[str] = ()
    os: str = ""
    """An image, `all`, or empty for the default of the use."""
    allocator: str = ""
    """An allocator, `all`, or empty for the default of the use."""

    def admits(self, cell: Triple) -> bool:
        """Return whether the options leave a cell in."""
        _, image, allocator = cell
        return self.os in ("", EVERYTHING, image) and self.allocator in ("", EVERYTHING, allocator)

    @property
    def options(self) -> list[str]:
        """The options that leave cells out, as they were typed: `--os el7`."""
        given = (("--os", self.os), ("--allocator", self.allocator))
        return [f"{option} {value}" for option, value in given if value not in ("", EVERYTHING)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidates:
    """The cells to choose from, and what a model or `all` means among them where no option says it."""

    cells: Mapping[str, Triple]
    """By id, in the order in which chosen ones are returned."""
    models: Collection[str]
    default_image: str = EVERYTHING
    default_allocators: Mapping[str, str] = field(default_factory=dict)
    """By image; every allocator of images that are not listed."""

    def usual(self, selection: Selection, cell: Triple) -> bool:
        """Return whether the options, or in their place the defaults, leave a cell in."""
        _, image, allocator = cell
        return (selection.os or self.default_image) in (EVERYTHING, image) and (
            selection.allocator or self.default_allocators.get(image, EVERYTHING)
        ) in (EVERYTHING, allocator)

    def is_model(self, selector: str) -> bool:
        """Return whether a selector is a model or `all`; a name that is also a cell id means the cell."""
        return selector not in self.cells and (selector == EVERYTHING or selector in self.models)

    def matching(self, selector: str) -> list[str]:
        """Return the ids that a selector matches, whatever the options are."""
        if selector in self.cells:
            return [selector]
        if self.is_model(selector):
            return [id_ for id_, (model, _, _) in self.cells.items() if selector in (EVERYTHING, model)]
        return [id_ for id_ in self.cells if fnmatch.fnmatchcase(id_, selector)]

    def chosen(self, selector: str, selection: Selection) -> list[str]:
        """Return the ids that a selector and the options choose. Cell ids and globs take no defaults."""
        matching = self.matching(selector)
        if self.is_model(selector):
            return [id_ for id_ in matching if self.usual(selection, self.cells[id_])]
        return [id_ for id_ in matching if selection.admits(self.cells[id_])]

    def admitted(self, selection: Selection) -> _Candidates:
        """Return the candidates that the options leave in."""
        cells = {id_: cell for id_, cell in self.cells.items() if selection.admits(cell)}
        return replace(self, cells=cells, models=dict.fromkeys(model for model, _, _ in cells.values()))

    def near(self, selector: str) -> str:
        """Return a hint with the models and ids that are like a selector; empty if none is."""
        return did_you_mean(selector, [*self.models, *self.cells]) or did_you_mean(selector, self.models)


def _choose(selection: Selection, candidates: _Candidates, refusal: Callable[[str], ConfigError]) -> dict[str, Triple]:
    """Return the chosen cells by id, in the order of the candidates, once each.

    Raises:
        ConfigError: a selector chooses nothing; `refusal` makes the error.
    """
    chosen: set[str] = set()
    for selector in selection.selectors:
        found = candidates.chosen(selector, selection)
        if not found:
            raise refusal(selector)
        chosen.update(found)
    return {id_: cell for id_, cell in candidates.cells.items() if id_ in chosen}


def nothing_selected(verb: str) -> ConfigError:
    """Return the error for a command without selectors that does not take that for `all`."""
    return SelectionError(
        "nothing is selected",
        hint=f"name a model, a cell id, a glob over ids or `all`: `nox -s {verb} -- R620`",
    )


def _contradiction(selector: str, selection: Selection) -> ConfigError:
    return SelectionError(
        f"{selector} and {' and '.join(selection.options)} exclude one another",
        where=WHERE,
        hint="a cell id or glob names image and allocator itself: leave the option out",
    )


# ---- cells of the matrix


def select(
    spec: Spec, selection: Selection, *, host_image: str = "", engine: Literal["docker", "host"] = "docker"
) -> tuple[Cell, ...]:
    """Return the cells of the matrix that are selected, in the matrix's order, once each.

    Args:
        spec: the specification.
        selection: what the command line selects.
        host_image: the image that matches this machine, if any: it comes before the default of the specification.
        engine: where the build runs.

    Raises:
        ConfigError: a selector, image or allocator is unknown or selects nothing, or the engine cannot build it.
    """
    _check_option(selection.os, "image", "--os", spec.images)
    _check_option(selection.allocator, "allocator", "--allocator", spec.allocators)
    if not selection.selectors:
        raise nothing_selected("build")
    matrix = combinations(spec)
    candidates = _Candidates(
        cells={"-".join(triple): triple for triple in matrix.triples},
        models=spec.hardware,
        default_image=host_image or spec.defaults.image,
        default_allocators={name: image.allocator for name, image in spec.images.items()},
    )
    chosen = _choose(selection, candidates, lambda selector: _not_in_matrix(selector, selection, candidates, matrix))
    if engine == "host":
        _refuse_foreign_images(host_image, chosen.values())
    return tuple(cell_of(spec, triple) for triple in chosen.values())


def _check_option(value: str, kind: str, option: str, known: Iterable[str]) -> None:
    names = list(known)
    if value and value != EVERYTHING and value not in names:
        raise SelectionError(
            f"there is no {kind} {value!r}",
            where=option,
            hint=did_you_mean(value, names) or f"known: {', '.join(names)}",
        )


def _refuse_foreign_images(host_image: str, triples: Iterable[Triple]) -> None:
    foreign = sorted({image for _, image, _ in triples if image != host_image})
    if foreign:
        here = f"this machine is {host_image}" if host_image else "no image matches this machine"
        raise SelectionError(
            f"the host engine builds only for the machine it runs on; {here}, not {', '.join(foreign)}",
            where="--engine host",
            hint="use a container engine for other images, or run on a machine with that OS",
        )


def _not_in_matrix(selector: str, selection: Selection, candidates: _Candidates, matrix: Combinations) -> ConfigError:
    """Return why a selector chooses no cell of the matrix."""
    matching = candidates.matching(selector)
    excluded = [
        rule
        for triple, rule in matrix.excluded.items()
        if fnmatch.fnmatchcase("-".join(triple), selector) and (not matching or selection.admits(triple))
    ]
    if excluded:
        reasons = dict.fromkeys(rule.reason for rule in excluded if rule.reason)
        return SelectionError(
            f"the matrix excludes {selector}" + (f": {'; '.join(reasons)}" if reasons else ""),
            where="matrix.exclude",
            hint="add it under matrix.include, or choose another cell",
        )
    if candidates.is_model(selector):
        return _no_usual_cell(selector, selection, candidates, matrix)
    if matching:
        return _contradiction(selector, selection)
    return SelectionError(
        f"no model, cell id or glob matches {selector!r}",
        where=WHERE,
        hint=candidates.near(selector) or SEE_MATRIX,
    )


def _no_usual_cell(selector: str, selection: Selection, candidates: _Candidates, matrix: Combinations) -> ConfigError:
    """Return why a model, or `all`, chooses no cell: with the reasons of the rules that exclude what it means."""
    reasons = {
        rule.reason
        for triple, rule in matrix.excluded.items()
        if selector in (EVERYTHING, triple[0]) and candidates.usual(selection, triple) and rule.reason
    }
    image = selection.os or candidates.default_image
    images = sorted(candidates.default_allocators) if image == EVERYTHING else [image]
    return SelectionError(
        f"the matrix has no cell {selector} with image {', '.join(images)} and allocator "
        f"{selection.allocator or '(the default)'}",
        where="matrix",
        hint="\n".join([*sorted(reasons), SEE_MATRIX]),
    )


# ---- cells that exist


def select_existing(selection: Selection, existing: Mapping[str, Triple], *, what: str, hint: str) -> list[str]:
    """Return the ids of the existing cells that are selected, in their order; without selectors, of all.

    Args:
        selection: what the command line selects.
        existing: the cells by id.
        what: what they are, for errors: "built".
        hint: what to do about one that does not exist.

    Raises:
        ConfigError: a selector selects none of them.
    """
    candidates = _Candidates(cells=existing, models=dict.fromkeys(model for model, _, _ in existing.values()))

    def refusal(selector: str) -> ConfigError:
        if selector in existing:
            return _contradiction(selector, selection)
        known = bool(candidates.matching(selector))  # only an option is in its way then
        near = "" if known else candidates.admitted(selection).near(selector)
        near = near or _near_option(selection, existing)
        return SelectionError(
            f"nothing of {' '.join([selector, *selection.options])} is {what}",
            where=WHERE,
            hint="\n".join(line for line in (near, hint) if line),
        )

    asked = selection if selection.selectors else replace(selection, selectors=(EVERYTHING,))
    return list(_choose(asked, candidates, refusal))


def _near_option(selection: Selection, existing: Mapping[str, Triple]) -> str:
    """Return a hint with names that are like the value of an option that no existing cell has; empty if none is."""
    for value, names in (
        (selection.os, {image for _, image, _ in existing.values()}),
        (selection.allocator, {allocator for _, _, allocator in existing.values()}),
    ):
        if value not in ("", EVERYTHING) and value not in names:
            return did_you_mean(value, names)
    return ""
