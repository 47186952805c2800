"""The end of a run as events: verdicts on cells, remarks, files in dist/, and what can be done next."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from pikaforge.cli.faces import verdicts
from pikaforge.cli.faces.events import ArtifactPut, RunClosed
from pikaforge.cli.faces.reporter import Reporter
from pikaforge.cli.output import readable
from pikaforge.config.schema import Spec
from pikaforge.host.process import cwd
from pikaforge.pipeline.dist import DistFiles
from pikaforge.pipeline.outcomes import Report
from pikaforge.pipeline.report_record import CellRecord

Made = Literal["built", "packed only", "up to date"]
COMPILE = "compile"
NAMED = 3
"""Cells that are named in a command; with more, it is about the selectors of the run."""


def close_run(
    reporter: Reporter,
    done: Report,
    put: DistFiles,
    *,
    spec: Spec,
    selectors: Sequence[str],
    report: Path,
    command: Callable[[str], str],
    status: int,
) -> None:
    """Report the end of a run.

    Args:
        reporter: takes the events.
        done: the run.
        put: what it has put into dist/.
        spec: the configuration.
        selectors: of the run.
        report: path of the build report.
        command: returns the command that builds the cell with an id.
        status: the exit status.
    """
    for text in put.notices:
        reporter.notice(text)
    ids = {cell.id for cell in done.plan.cells}
    cells = [cell for cell in put.report.cells if cell.id in ids]
    for cell in cells:
        reporter.take(verdicts.cell_ended(cell, now=reporter.now(), command=command(cell.id)))
    for text in verdicts.notes(cells):
        reporter.notice(text)
    for event in _files(done, put, cells, dist=report.parent, now=reporter.now()):
        reporter.take(event)
    failed = sum(cell.status == "failed" for cell in cells)
    page = report.with_suffix(".html")
    reporter.take(
        RunClosed(
            time=reporter.now(),
            exit_status=status,
            built=len(cells) - failed,
            failed=failed,
            seconds=reporter.seconds(),
            report=readable(report, cwd()) if report.is_file() else "",
            page=readable(page, cwd()) if page.is_file() else "",
            next=tuple(_next(spec, cells, selectors)),
        )
    )


def _files(done: Report, put: DistFiles, cells: Sequence[CellRecord], *, dist: Path, now: str) -> Iterator[ArtifactPut]:
    """Yield the files of this run, in the order of the plan, with what they have cost."""
    spent: dict[str, float] = {}
    made: dict[str, Made] = {}
    for outcome in done.outcomes.values():
        for cell in outcome.node.cells:
            if outcome.status == "done":
                spent[cell.id] = spent.get(cell.id, 0.0) + outcome.seconds
                built = outcome.node.stage == COMPILE or made.get(cell.id) == "built"
                made[cell.id] = "built" if built else "packed only"
    digests = dict(put.artifacts)
    for record in cells:
        for artifact in record.artifacts:
            path = dist / artifact.path
            if path in digests:
                yield ArtifactPut(
                    time=now,
                    cell=record.id,
                    file=readable(path, cwd()),
                    bytes=artifact.bytes,
                    seconds=spent.get(record.id, 0.0),
                    sha256=digests[path],
                    made=made.get(record.id, "up to date"),
                )


def _next(spec: Spec, cells: Sequence[CellRecord], selectors: Sequence[str]) -> Iterator[str]:
    """Yield the commands that fit the end of a run: for cells that were built, publishing where that is configured."""
    built = [cell.id for cell in cells if cell.status == "done"]
    if not built or not spec.publish:
        return
    named = built if len(built) <= NAMED else list(selectors)
    where = [] if spec.defaults.publish is not None else ["--to", next(iter(spec.publish))]
    yield shlex.join(["nox", "-s", "publish", "--", *named, *where])
