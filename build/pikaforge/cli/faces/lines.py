"""What events say in lines of text. All faces for people use them, so that one run says the same on each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from pikaforge.cli.faces.events import (
    ArtifactPut,
    CellEnded,
    FailureText,
    NodeEnded,
    RunClosed,
    RunInterrupted,
    RunNotice,
    RunOpened,
    TableShown,
)
from pikaforge.cli.output import built_target, count, duration, size, table
from pikaforge.host.text import cut, width

VERDICTS = ("CELL", "TARGET", "AUDIT", "NATIVE", "EMULATED", "PACKAGE")
FILE = 1
ARTIFACTS = ("CELL", "FILE", "SIZE", "SECONDS", "MADE", "SHA-256")
SHORT_DIGEST = 12
"""Letters of a digest where a terminal has no room for 64; SHA256SUMS beside the file has all."""
NARROWEST = 28
"""Columns that a file name gets at least, before whole columns are left out."""


def name(stage: str, label: str) -> str:
    """Return how a node is called in lines."""
    return f"{stage:<8} {label}"


def notice(event: RunNotice) -> str:
    """Return a notice with its level."""
    return f"{event.level}: {event.text}"


def opening(event: RunOpened) -> list[str]:
    """Return what a run will do, and how long that is expected to take."""
    stored = f"{event.cached} of them stored ({percent(event.cached, event.nodes)})" if event.cached else "none stored"
    cells, compilations = count(len(event.cells), "cell"), count(event.compilations, "compilation")
    lines = [f"{cells}, {compilations}: {count(event.nodes, 'node')}, {stored}"]
    if event.cached == event.nodes:
        return lines
    if event.expected_seconds is None:
        lines.append("expected time: not known, because no earlier run is recorded in dist/")
    elif event.unknown:
        least = duration(event.expected_seconds)
        lines.append(f"expected time: more than {least}; nothing is known of {count(event.unknown, 'node')}")
    else:
        lines.append(f"expected time: about {duration(event.expected_seconds)}, as in earlier runs")
    return lines


def percent(part: int, whole: int) -> str:
    """Return a share as `25 %`."""
    return f"{100 * part // whole if whole else 0} %"


def ended(event: NodeEnded) -> list[str]:
    """Return how a node has ended, in one line."""
    who = name(event.stage, event.label)
    if event.status == "cached":
        return [f"{who} is up to date"]
    if event.status == "done":
        return [f"{who} done in {event.seconds:.1f} s"]
    if event.status == "blocked":
        return [f"{who} not run: it needs {event.blocked_by}"]
    return [f"{who} FAILED after {event.seconds:.1f} s"]


def failure(error: FailureText, reproduce: Sequence[str], *, tail: bool = True) -> list[str]:
    """Return an error, and the lines that reproduce it.

    Args:
        error: the error.
        reproduce: command lines.
        tail: whether the end of the log is shown, even where the reasons are known.
    """
    lines = list(error.lines)
    if not tail and error.reasons and error.tail:
        first = next(place for place, line in enumerate(lines) if line.startswith("  last lines of the log:"))
        lines[first : first + 1 + len(error.tail)] = []
    if reproduce:
        lines += ["  to reproduce it on this machine:", *(f"    {line}" for line in reproduce)]
    return lines


def interrupted(event: RunInterrupted) -> list[str]:
    """Return what is kept of a run that a signal has ended, and how to go on."""
    kept = f"{event.kept} of {count(event.nodes, 'result')} kept" if event.nodes else "nothing was begun"
    return [f"stopped: {kept}", *(f"to go on: {line}" for line in event.next)]


def refusals(cells: Sequence[CellEnded]) -> list[str]:
    """Return how many cells were built; for each of the others the reason, and the command that builds it alone."""
    failed = [cell for cell in cells if cell.status == "failed"]
    if not failed:
        return []
    lines = [f"{len(cells) - len(failed)} of {len(cells)} cells built, {len(failed)} refused"]
    for cell in failed:
        lines += [f"  {cell.cell}: {cell.reason}", f"    to try it alone: {cell.command}"]
    return lines


def verdicts(cells: Sequence[CellEnded]) -> list[tuple[str, ...]]:
    """Return the rows of the table of verdicts."""
    return [(c.cell, built_target(c.target, c.wanted), c.audit, c.native, c.emulated, c.package) for c in cells]


def verdict_table(cells: Sequence[CellEnded], columns: int = 0) -> list[str]:
    """Return the table of verdicts; on a terminal that is too narrow for it, one paragraph for cells with the same."""
    rows = verdicts(cells)
    text = table(VERDICTS, rows).split("\n")
    if not columns or max(map(width, text)) <= columns:
        return text
    alike: dict[tuple[str, ...], list[str]] = {}
    for id_, *rest in rows:
        alike.setdefault(tuple(rest), []).append(id_)
    lines = []
    for words, ids in alike.items():
        lines.append(", ".join(ids))
        lines += [f"  {head.lower()}: {cell}" for head, cell in zip(VERDICTS[1:], words, strict=True)]
    return lines


def artifacts(files: Sequence[ArtifactPut], columns: int = 0) -> list[str]:
    """Return a line for each file. On a terminal that is too narrow they are below their folders, with less in each.

    Args:
        files: the files.
        columns: of the terminal; 0 if the width does not matter.
    """
    rows = [(f.cell, f.file, size(f.bytes), f"{f.seconds:.1f}", f.made, f.sha256) for f in files]
    text = table(ARTIFACTS, rows).split("\n") if rows else []
    if not columns or max(map(width, text), default=0) <= columns:
        return text
    names = [f"  {PurePosixPath(row[1]).name}" for row in rows]
    short = [(row[0], name, *row[2:-1], row[-1][:SHORT_DIGEST]) for row, name in zip(rows, names, strict=True)]
    kept, room = _columns_that_fit(short, columns)
    head, *lines = table(
        [ARTIFACTS[i] for i in kept], [[cut(row[i], room) if i == FILE else row[i] for i in kept] for row in short]
    ).split("\n")
    shown, last = [head], ""
    for row, line in zip(rows, lines, strict=True):
        folder = str(PurePosixPath(row[1]).parent)
        if folder != last:
            shown.append(cut(f"{folder}/", columns))
            last = folder
        shown.append(line)
    return shown


def _columns_that_fit(rows: Sequence[tuple[str, ...]], columns: int) -> tuple[list[int], int]:
    """Return which columns of the table of files fit, and how wide that of the names may be."""
    wide = [max(map(width, column)) for column in zip(ARTIFACTS, *rows, strict=True)]
    kept = list(range(len(ARTIFACTS)))

    def room() -> int:
        return columns - sum(wide[i] + 2 for i in kept if i != FILE)

    # The name of a file has model, image and format in it, so the cell goes first, unless all names fit.
    for column in (0, 3, 5, 2, 4):
        if room() >= (wide[FILE] if column == 0 else min(wide[FILE], NARROWEST)):
            break
        kept.remove(column)
    return kept, max(1, room())


def shown_table(event: TableShown) -> list[str]:
    """Return a table, and the lines below it."""
    return [table(event.header, event.rows), *event.remarks]


def closing(event: RunClosed) -> list[str]:
    """Return the end of a run: how long it took, and what can be done next."""
    took = [f"took {duration(event.seconds)}"] if event.seconds >= 1 else []
    report = [f"report: {event.page or event.report}"] if event.report else []
    return [*took, *report, *(f"next: {line}" for line in event.next)]
