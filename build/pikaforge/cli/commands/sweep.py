"""`sweep`: build one cell of each compilation, and write what was built and tried to a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pikaforge import __version__
from pikaforge.audit.audit_result import today
from pikaforge.cli import output
from pikaforge.cli.commands.build import PreparedRun, execute, farm_of, prepare, refuse_early, status
from pikaforge.cli.context import Context
from pikaforge.cli.faces.events import RunClosed, TableShown
from pikaforge.cli.faces.opening import reporting
from pikaforge.cli.faces.reporter import Reporter
from pikaforge.errors import EXIT_DONE, UsageError
from pikaforge.host.process import cwd
from pikaforge.host.store import locked
from pikaforge.pipeline import coverage
from pikaforge.pipeline.image.facts import ImageStageFacts
from pikaforge.pipeline.outcomes import Report
from pikaforge.plan.cells import Cell
from pikaforge.plan.matrix import all_cells
from pikaforge.plan.plan import EMULATOR_NODE

SLICE = re.compile(r"([0-9]{1,9})/([1-9][0-9]{0,3})")


def sweep(context: Context) -> int:
    """Run `sweep`; return the exit status. An input that cannot be reached from here makes a row, and is no failure."""
    arguments = context.arguments
    if not arguments.selectors:
        arguments.selectors = ["all"]
        arguments.os = arguments.os or "all"
    with reporting(context) as reporter, farm_of(context) as farm:
        chosen = sliced(representatives(context.cells()), arguments.slice)
        refuse_early(context, [cell for cell in chosen if not cell.problem])
        run = prepare(context, reporter, farm)
        done = execute(context, run, context.plan(run.machine, chosen))
        rows, written = _recorded(context, run, done)
        code = _status(done)
        show_rows(reporter, rows, written, done, code)
    return code


def _recorded(context: Context, run: PreparedRun, done: Report) -> tuple[tuple[coverage.Row, ...], Sequence[Path]]:
    """Write the table with the rows of a run; return these rows, and the files that were written."""
    arguments, product = context.arguments, context.spec.product
    folder = cwd() / arguments.to if arguments.to else context.home / "docs"
    whole = all_cells(context.spec)
    emulator = done.facts(EMULATOR_NODE, ImageStageFacts)
    fresh = coverage.Coverage(
        product=product.name,
        version=product.version,
        source=_source(arguments.source),
        tool=__version__,
        machine=coverage.best_of(run.machine),
        emulator=emulator.version if emulator is not None else "",
        rows=tuple(coverage.rows(whole, done, day=today())),
    )
    order = list(dict.fromkeys((cell.image, cell.target, cell.allocator) for cell in _by_image(context, whole)))
    with locked(context.out / ".coverage.lock"):  # two sweeps must not lose each other's rows
        return fresh.rows, coverage.write(folder, coverage.merge(fresh, coverage.load(folder), order))


def representatives(cells: Sequence[Cell]) -> list[Cell]:
    """Return the first cell of each compilation, in the order of the matrix."""
    found: dict[str, Cell] = {}
    for cell in cells:
        found.setdefault(cell.group, cell)
    return list(found.values())


def sliced(cells: list[Cell], text: str) -> list[Cell]:
    """Return every N-th cell, from the K-th (modulo N) on, for `K/N`; all cells for an empty text.

    Neighbours in the matrix share a model or an image, so a slice has some of each. K may be any number, such as the
    day's.

    Raises:
        ConfigError: the text is no slice, or the slice is empty.
    """
    if not text:
        return cells
    match = SLICE.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is no slice", where="--slice", hint="K/N: every N-th, beginning with the K-th")
    first, step = int(match[1]) % int(match[2]), int(match[2])
    if not cells[first::step]:
        raise UsageError(
            f"there are only {len(cells)} compilations", where="--slice", hint=f"take N from 1 to {len(cells)}"
        )
    return cells[first::step]


def _by_image(context: Context, cells: Sequence[Cell]) -> list[Cell]:
    images = list(context.spec.images)
    return sorted(cells, key=lambda cell: images.index(cell.image))


def _source(source: str) -> str:
    """Return how the table calls the source: a path of this machine means nothing to its readers."""
    return source if source == "sample" or not source else Path(source.partition("#")[0]).name


def show_rows(
    reporter: Reporter, rows: Sequence[coverage.Row], written: Sequence[Path], done: Report, code: int
) -> None:
    """Report the rows of a sweep, how many compilations were built, and the files that were written."""
    table = tuple((row.image, row.target, row.allocator, row.state, row.tried or "-", row.why[:100]) for row in rows)
    built = sum(row.state == "built" for row in rows)
    remarks = [f"{built} of {len(rows)} compilations built; {len(done.plan.nodes)} nodes"]
    remarks += [output.readable(path, cwd()) for path in written]
    header = ("IMAGE", "TARGET", "ALLOCATOR", "STATE", "TRIED AS", "WHY")
    reporter.take(TableShown(time=reporter.now(), header=header, rows=table, remarks=tuple(remarks)))
    reporter.take(
        RunClosed(
            time=reporter.now(),
            exit_status=code,
            built=built,
            failed=len(rows) - built,
            seconds=reporter.seconds(),
            report="",
        )
    )


def _status(done: Report) -> int:
    """Return the exit status of a build without the nodes that failed because an input cannot be reached."""
    left = coverage.unreachable(done)
    rest = Report(plan=done.plan, outcomes={name: o for name, o in done.outcomes.items() if name not in left})
    return status(rest) if rest.errors else EXIT_DONE
