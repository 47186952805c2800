"""`sweep`: build one cell of every distinct compilation, and write down what was tried."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pikaforge import __version__
from pikaforge.audit.audit_result import today
from pikaforge.cli import output
from pikaforge.cli.commands.build import started, status
from pikaforge.cli.context import Context
from pikaforge.errors import EXIT_DONE, ConfigError
from pikaforge.host.process import cwd
from pikaforge.pipeline import coverage
from pikaforge.pipeline.pipeline import Report
from pikaforge.plan.cells import Cell
from pikaforge.plan.matrix import all_cells
from pikaforge.plan.plan import EMULATOR_NODE

SLICE = re.compile(r"([0-9]{1,9})/([1-9][0-9]{0,3})")


def sweep(context: Context) -> int:
    """`sweep`: build what can be had, write the table; what cannot be had here is a row and no failure."""
    given = context.arguments
    if not given.selectors:
        given.selectors = ["all"]
        given.os = given.os or "all"
    chosen = sliced(representatives(context.cells()), given.slice)
    run = started(context)
    plan = context.plan(run.machine, chosen)
    done = run.pipeline.execute(plan, run.printer)
    folder = cwd() / given.to if given.to else context.home / "docs"
    whole = all_cells(context.spec)
    product = context.spec.product
    emulator = done.outcomes.get(EMULATOR_NODE)
    fresh = coverage.Coverage(
        product=product.name,
        version=product.version,
        source=_source(given.source),
        tool=__version__,
        machine=coverage.best_of(run.machine),
        emulator=str(emulator.result.facts["version"]) if emulator is not None and emulator.result is not None else "",
        rows=tuple(coverage.rows(whole, done, day=today())),
    )
    order = list(dict.fromkeys((cell.image, cell.target, cell.allocator) for cell in _by_image(context, whole)))
    written = coverage.write(folder, coverage.merge(fresh, coverage.load(folder), order))
    tell(fresh.rows, done)
    for path in written:
        output.show(output.readable(path, cwd()))
    return _status(done)


def representatives(cells: Sequence[Cell]) -> list[Cell]:
    """One cell of each compilation, in the order of the matrix."""
    found: dict[str, Cell] = {}
    for cell in cells:
        found.setdefault(cell.group, cell)
    return list(found.values())


def sliced(cells: list[Cell], asked: str) -> list[Cell]:
    """Every N-th cell, beginning with the K-th modulo N, for `K/N`; all of them for an empty text.

    Neighbours in the matrix share a model or an image, so slices are unlike in that; K may be any number, such as that
    of the day.

    Raises:
        ConfigError: it is no slice, or there is nothing in it.
    """
    if not asked:
        return cells
    match = SLICE.fullmatch(asked)
    if match is None:
        raise ConfigError(f"{asked!r} is no slice", where="--slice", hint="K/N: every N-th, beginning with the K-th")
    first, step = int(match[1]) % int(match[2]), int(match[2])
    if not cells[first::step]:
        raise ConfigError(
            f"there are only {len(cells)} compilations", where="--slice", hint=f"take N from 1 to {len(cells)}"
        )
    return cells[first::step]


def _by_image(context: Context, cells: Sequence[Cell]) -> list[Cell]:
    images = list(context.spec.images)
    return sorted(cells, key=lambda cell: images.index(cell.image))


def _source(asked: str) -> str:
    """What people read: a path of this machine says nothing to them."""
    return asked if asked == "sample" or not asked else Path(asked.partition("#")[0]).name


def tell(rows: Sequence[coverage.Row], done: Report) -> None:
    """Say what a sweep came to, and what failed."""
    table = [(row.image, row.target, row.allocator, row.state, row.tried or "-", row.why[:100]) for row in rows]
    output.show(output.table(("IMAGE", "TARGET", "ALLOCATOR", "STATE", "TRIED AS", "WHY"), table))
    count = sum(row.state == "built" for row in rows)
    output.show(f"{count} of {len(rows)} compilations built; {len(done.plan.nodes)} nodes")


def _status(done: Report) -> int:
    """As a build's, but for what cannot be had here."""
    left = coverage.unreachable(done)
    rest = Report(plan=done.plan, outcomes={name: o for name, o in done.outcomes.items() if name not in left})
    return status(rest) if rest.errors else EXIT_DONE
