"""What `build` prints at the end: a table of verdicts, and why cells were refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from pikaforge.attest.describe import SUMS
from pikaforge.audit.judge_instructions import DispatchedRecord
from pikaforge.cli.output import built_target, count, readable, size, table
from pikaforge.host.text import one_line
from pikaforge.pipeline.report_record import CellRecord
from pikaforge.pipeline.smoke.record import WayRecord

LISTED = 24
"""Files that are listed one by one at the end of a build; about three cells. A full matrix has hundreds."""
VERDICTS = ("CELL", "TARGET", "AUDIT", "NATIVE", "EMULATED", "PACKAGE")
MARKUP = re.compile(r"[\\`*_~\[\]<>|&$#!]")
"""The characters that GitHub's Markdown may take for markup. Each may have a backslash before it (GFM, 2.4)."""


def verdicts(cells: Sequence[CellRecord]) -> str:
    """Return the table at the end of a build: a verdict of each check on each cell; then notes."""
    notes = _notes(cells)
    return "\n".join([table(VERDICTS, _verdict_rows(cells)), *(f"note: {text}" for text in notes)])


def verdicts_markdown(title: str, cells: Sequence[CellRecord]) -> str:
    """Return the same table and notes under a title, as Markdown."""
    lines = [VERDICTS, ["---"] * len(VERDICTS), *([plain(word) for word in row] for row in _verdict_rows(cells))]
    notes = [f"- {plain(text)}" for text in _notes(cells)]
    return "\n".join([f"### {plain(title)}", "", *(f"| {' | '.join(line)} |" for line in lines), "", *notes]).rstrip()


def _notes(cells: Sequence[CellRecord]) -> list[str]:
    return [*_not_run(cells), *_dispatched(cells), *_ungated(cells)]


def _not_run(cells: Iterable[CellRecord]) -> list[str]:
    """Return which targets were not run, and what was run instead; each once, with its cells."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        if cell.not_run:
            found.setdefault(cell.not_run, []).append(cell.id)
    return [f"{', '.join(ids)}: {text}" for text, ids in found.items()]


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


def refusals(cells: Sequence[CellRecord], command: Callable[[str], str]) -> str:
    """Return how many cells were built, and for each of the others the reason and the command that builds it alone.

    Args:
        cells: all cells of the run.
        command: returns the command that builds the cell with an id.
    """
    failed = [cell for cell in cells if cell.status == "failed"]
    lines = [f"{len(cells) - len(failed)} of {len(cells)} cells built, {len(failed)} refused"]
    for cell in failed:
        lines += [f"  {cell.id}: {_reason(cell)}", f"    to try it alone: {command(cell.id)}"]
    return "\n".join(lines)


def _reason(cell: CellRecord) -> str:
    """Return why a cell has no package, in one line."""
    for stage in cell.stages:
        if stage.status == "failed":
            said = " ".join(stage.error[0].removeprefix("error: ").split()) if stage.error else "failed"
            return f"{stage.stage} {stage.label}: {said}"
    return "it was not built"


def packages(files: Sequence[tuple[Path, str, int]], start: Path) -> Iterator[str]:
    """Return lines on the files in dist/: each with size and digest if they are few, else a line for each folder.

    The lines with digests are what `sha256sum --check` reads.

    Args:
        files: path, SHA-256 and number of bytes of each.
        start: the folder to which paths are relative where they are below it.
    """
    if len(files) <= LISTED:
        yield from (f"{readable(path, start)} ({size(length)})" for path, _, length in files)
        yield from (f"{digest}  {readable(path, start)}" for path, digest, _ in files)
        return
    folders: dict[Path, list[int]] = {}
    for path, _, length in files:
        folders.setdefault(path.parent, []).append(length)
    for folder, lengths in folders.items():
        yield (
            f"{readable(folder, start)}/: {count(len(lengths), 'file')}, {size(sum(lengths))}; "
            f"their digests are in {readable(folder / SUMS, start)}"
        )


def plain(text: str) -> str:
    """Return a text on one line that Markdown shows as it is.

    Reasons hold file names, replies of servers and messages of compilers.
    """
    return MARKUP.sub(r"\\\g<0>", one_line(" ".join(text.split())))


def _verdict_rows(cells: Iterable[CellRecord]) -> list[tuple[str, ...]]:
    return [
        (c.id, built_target(c.target, c.wanted), _audited(c), _ran(c, c.native), _ran(c, c.emulated), _packed(c))
        for c in cells
    ]


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
