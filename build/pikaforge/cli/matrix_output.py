"""What `matrix` prints for people: one line for each model, and why a cell is what it is."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Sequence

from pikaforge.cli.output import count, table
from pikaforge.config.schema import Spec
from pikaforge.host.text import one_line
from pikaforge.plan.cells import Cell
from pikaforge.plan.explain import Explanation

WIDTH = 100
"""Columns of an explanation at most."""
INDENT = 13
"""Columns before what is explained."""
MORE = ": `nox -s matrix -- --all` lists the cells, `--why CELL` explains one"
SEVERAL = 4
"""More features than these are counted, and not all named."""


def summary_text(spec: Spec, cells: Sequence[Cell]) -> str:
    """Return cells as a table with one line for each model, and the names that stand behind its words."""
    images = list(dict.fromkeys(cell.image for cell in cells))
    allocators = list(dict.fromkeys(cell.allocator for cell in cells))
    by_model: dict[str, list[Cell]] = {}
    for cell in cells:
        by_model.setdefault(cell.model, []).append(cell)
    nowhere = set.intersection(*(set(_absent(of_model)) for of_model in by_model.values())) if by_model else set()
    rows = [
        (
            model,
            ", ".join(spec.hardware[model].cpus),
            of_model[0].wanted,
            _names([cell.image for cell in of_model], images),
            _names([cell.allocator for cell in of_model], allocators),
            "; ".join(_peculiarities(of_model, nowhere)) or "-",
        )
        for model, of_model in by_model.items()
    ]
    lines = (
        f"images:     {', '.join(f'{name} (gcc {spec.images[name].gcc})' for name in images)}",
        f"allocators: {', '.join(allocators)}",
        *((f"left out:   {', '.join(sorted(nowhere))}, of every model",) if nowhere else ()),
        f"{count(len(by_model), 'model')}, {count(len(cells), 'cell')}{MORE}",
    )
    header = ("MODEL", "CPUS", "TARGET", "IMAGES", "ALLOCATORS", "BUT")
    return "\n\n".join([table(header, rows), "\n".join(map(one_line, lines))])


def _names(some: Sequence[str], every: Sequence[str]) -> str:
    """Return names, once each; `all` if that is every one of several."""
    found = list(dict.fromkeys(some))
    return "all" if len(found) == len(every) > 1 else ", ".join(found)


def _peculiarities(cells: Sequence[Cell], nowhere: Collection[str]) -> Iterator[str]:
    """Yield what is otherwise than the line of a model says: other targets, impossible cells, combinations left out.

    Args:
        cells: of the model.
        nowhere: combinations that no model has.
    """
    others: dict[str, list[str]] = {}
    for cell in cells:
        if cell.problem:
            others.setdefault("impossible", []).append(f"{cell.image}-{cell.allocator}")
        elif cell.target != cell.wanted:
            others.setdefault(cell.target, []).append(cell.image)
    for what, where in others.items():
        named = ", ".join(dict.fromkeys(where))
        yield f"{what}: {named}" if what == "impossible" else f"{what} on {named}"
    if absent := [pair for pair in _absent(cells) if pair not in nowhere]:
        yield f"not {', '.join(absent)}"


def _absent(cells: Sequence[Cell]) -> Iterator[str]:
    """Yield the combinations of a model's images and allocators of which there is no cell."""
    there = {(cell.image, cell.allocator) for cell in cells}
    for image in dict.fromkeys(cell.image for cell in cells):
        for allocator in dict.fromkeys(cell.allocator for cell in cells):
            if (image, allocator) not in there:
                yield f"{image}-{allocator}"


def why_text(found: Explanation) -> str:
    """Return an explanation as paragraphs, each behind its name."""
    cell = found.cell
    parts = [
        ("CPUs", f"{', '.join(found.cpus)}{f' ({found.note})' if found.note else ''}"),
        ("wanted", _wanted(found)),
        ("compiler", _compiler(found)),
        ("target", cell.target if not cell.problem else f"none: {cell.problem}"),
        ("flags", " ".join(cell.flags) or "none"),
        *(("added", words) for words in found.added),
        *((("remark", cell.remark),) if cell.remark else ()),
        ("tried", found.tried),
        ("in matrix", f"no: {found.left_out}" if found.left_out else "yes"),
    ]
    title = f"{cell.id}: model {cell.model}, image {cell.image}, allocator {cell.allocator}"
    return "\n".join([one_line(title), *(_paragraph(name, text) for name, text in parts)])


def _paragraph(name: str, text: str) -> str:
    return textwrap.fill(
        one_line(text),
        WIDTH,
        initial_indent=f"  {name}".ljust(INDENT),
        subsequent_indent=" " * INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _wanted(found: Explanation) -> str:
    """Return which target the CPUs have in common, and why it is no better one."""
    wanted = found.cell.wanted
    if len(set(found.cpus)) == 1:
        return f"{wanted}, the model's one CPU"
    said = [f"{wanted}, the best microarchitecture whose code all of its CPUs run"]
    for refused in found.refused:
        lacks = "; ".join(f"{cpu} has no {_features(features)}" for cpu, features in refused.lacking)
        said.append(f"not {refused.cpu}: {lacks}")
    return "; ".join(said)


def _features(names: Sequence[str]) -> str:
    rest = len(names) - SEVERAL
    return ", ".join(names) if rest <= 0 else f"{', '.join(names[:SEVERAL])} and {rest} more"


def _compiler(found: Explanation) -> str:
    """Return whether the image's compiler can produce the wanted target, and which one is the nearest."""
    if not found.reason:
        return f"gcc {found.gcc} produces code for {found.cell.wanted}: no fallback is needed"
    lost = f", which does without {_features(found.given_up)}" if found.given_up else ""
    return f"{found.reason}; the nearest that it can produce is {found.nearest}{lost}"
