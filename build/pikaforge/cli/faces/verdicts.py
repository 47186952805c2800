"""The verdicts on cells, and remarks on them, from the records of the build report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pikaforge.audit.judge_instructions import DispatchedRecord
from pikaforge.cli.faces.events import CellEnded
from pikaforge.cli.output import count
from pikaforge.cpu.emulation import stand_for
from pikaforge.pipeline.report_record import CellRecord
from pikaforge.pipeline.smoke.record import WayRecord


def cell_ended(cell: CellRecord, *, now: str, command: str) -> CellEnded:
    """Return the verdicts on a cell as an event.

    Args:
        cell: the record of the build report.
        now: the time.
        command: the command that builds it alone.
    """
    failed = cell.status == "failed"
    return CellEnded(
        time=now,
        cell=cell.id,
        target=cell.target,
        wanted=cell.wanted,
        flags=cell.flags,
        status=cell.status,
        audit=_audited(cell),
        native=_ran(cell, cell.native),
        emulated=_ran(cell, cell.emulated),
        package=_packed(cell),
        reason=_reason(cell) if failed else "",
        command=command if failed else "",
    )


def notes(cells: Sequence[CellRecord]) -> list[str]:
    """Return what the reader should know of cells that were built."""
    return [*_not_run(cells), *_ran_on(cells), *_dispatched(cells), *_ungated(cells)]


def _not_run(cells: Iterable[CellRecord]) -> list[str]:
    """Return which targets were not run, and what was run instead; each once, with its cells."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        if cell.not_run:
            found.setdefault(cell.not_run, []).append(cell.id)
    return [f"{', '.join(ids)}: {text}" for text, ids in found.items()]


def _ran_on(cells: Iterable[CellRecord]) -> list[str]:
    """Return the CPUs on which code ran that no emulator knows; each once, with its cells."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        way = cell.native
        if way is not None and way.ran and way.machine and cell.tried == cell.target and stand_for(cell.target).reason:
            found.setdefault(way.machine, []).append(cell.id)
    return [f"{', '.join(ids)}: ran on {machine}" for machine, ids in found.items()]


def _dispatched(cells: Iterable[CellRecord]) -> list[str]:
    """Return which libraries of distributions the audit accepted because they ask the CPU first; each once."""
    targets: dict[tuple[str, DispatchedRecord], dict[str, None]] = {}
    for cell in cells:
        for library in cell.audit.dispatched if cell.audit is not None else ():
            targets.setdefault((cell.image, library), {})[cell.target] = None
    return [
        f"accepted on {image} for {', '.join(names)}: {library.file} of {library.package} {library.version} has "
        f"{', '.join(library.features)} in {_some(library.functions)}: {'; '.join(library.evidence)}"
        for (image, library), names in targets.items()
    ]


def _ungated(cells: Iterable[CellRecord]) -> list[str]:
    """Return which features the CPU gate cannot see, of those that packages use; each once, with its cells."""
    found: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        for entry in cell.audit.ungated.items() if cell.audit is not None else ():
            found.setdefault(entry, []).append(cell.id)
    return [f"{', '.join(ids)}: beyond the CPU gate: {name}: {why}" for (name, why), ids in found.items()]


def _some(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more functions" if len(names) > limit else "")


def _reason(cell: CellRecord) -> str:
    """Return why a cell has no package, in one line."""
    for stage in cell.stages:
        if stage.status == "failed":
            said = " ".join(stage.error[0].removeprefix("error: ").split()) if stage.error else "failed"
            return f"{stage.stage} {stage.label}: {said}"
    return "it was not built"


def _audited(cell: CellRecord) -> str:
    if cell.audit is None:
        return _unreached(cell, "audit")
    if not cell.audit.passed:
        return f"REFUSED ({len(cell.audit.violations)})"
    warnings, accepted = len(cell.audit.warnings), len(cell.audit.dispatched)
    words = ["passed"]
    if warnings:
        words.append(count(warnings, "warning"))
    if accepted:
        words.append(f"{count(accepted, 'library', 'libraries')} by dispatch")
    return ", ".join(words)


def _ran(cell: CellRecord, way: WayRecord | None) -> str:
    if way is None:
        return _unreached(cell, "smoke")
    if not way.ran:
        return f"not run: {way.reason}"
    if way.problem:
        return f"FAILED: {', '.join(way.failed)}" if way.failed else "FAILED"
    made = [check for check in way.checks if not check.skipped]
    good = sum(check.passed for check in made)
    twin = f"as {cell.tried}: " if cell.tried not in ("", cell.target) else ""
    return f"{twin}{good} of {len(made)} checks passed in {sum(check.seconds for check in made):.1f} s"


def _packed(cell: CellRecord) -> str:
    return "yes" if cell.artifacts else _unreached(cell, "package") if cell.status == "failed" else "-"


def _unreached(cell: CellRecord, stage: str) -> str:
    """Return how a stage without a verdict ended."""
    ended = next((s.status for s in cell.stages if s.stage == stage), "blocked")
    return "FAILED" if ended == "failed" else "-" if ended == "blocked" else ended
