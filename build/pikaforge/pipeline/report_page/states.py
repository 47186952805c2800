"""The state of a cell in one word, and what a person should know of it even if it passed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pikaforge.pipeline.report_record import CellRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class CellStateWord:
    """How a state is shown: never by its colour alone."""

    name: str
    sign: str
    title: str
    about: str


STATES: Mapping[str, CellStateWord] = {
    state.name: state
    for state in (
        CellStateWord(name="passed", sign="✓", title="passed", about="built, judged and run; nothing is left open"),
        CellStateWord(
            name="partly",
            sign="◐",
            title="passed with remarks",
            about="there is a package, and something was not run or not shown",
        ),
        CellStateWord(name="failed", sign="✗", title="failed", about="there is no package"),
        CellStateWord(name="absent", sign="·", title="not built", about="the matrix has it, and no report does"),
    )
}


REASON = "  reason: "
"""What a line of an error begins with that has the first reason."""


def state_of(cell: CellRecord) -> str:
    """Return the name of a cell's state."""
    if cell.status == "failed":
        return "failed"
    return "partly" if remarks(cell) else "passed"


def remarks(cell: CellRecord) -> tuple[str, ...]:
    """Return what is left open of a cell, a sentence each."""
    found: list[str] = []
    if cell.wanted != cell.target:
        found.append(f"built for {cell.target}, because the compiler knows no {cell.wanted}")
    if cell.not_run:
        found.append(cell.not_run)
    if cell.audit is not None:
        found += [f"not proven: {line}" for line in cell.audit.unproven]
        found += [f"not judged: {line}" for line in cell.audit.not_judged]
    ways = [way for way in (cell.native, cell.emulated) if way is not None]
    if ways and not any(way.ran for way in ways):
        found.append("nothing was run: " + "; ".join(dict.fromkeys(way.reason for way in ways if way.reason)))
    found += [
        f"check {check.name}, which is only advice, failed" for way in ways for check in way.checks if check.failed
    ]
    return tuple(found)


def first_error(cell: CellRecord) -> str:
    """Return the first thing that was said when a cell failed; empty if it did not."""
    for stage in cell.stages:
        if stage.status == "failed" and stage.error:
            reason = next((line for line in stage.error if line.startswith(REASON)), "")
            said = stage.error[0].removeprefix("error: ")
            return f"{said}: {reason.removeprefix(REASON)}" if reason else said
    blocked = next((stage.blocked_by for stage in cell.stages if stage.blocked_by), "")
    return f"{blocked} failed" if blocked and cell.status == "failed" else ""
