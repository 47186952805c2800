"""Build reports of several runs as one, as long as they do not contradict each other."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pikaforge.errors import ConfigError
from pikaforge.pipeline.report import all_of
from pikaforge.pipeline.report_record import BuildReport, CellRecord

PURE = ("audit", "package")
"""Stages whose results one key decides to the last byte. Other stages measure time, or ask servers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundReport:
    """A report, and the folder that it is about."""

    folder: Path
    report: BuildReport


def reports(folder: Path) -> list[FoundReport]:
    """Read the reports of a folder and those of its folders, in which the jobs of a CI run leave theirs."""
    folders = [folder, *sorted(path for path in folder.glob("*/") if path.is_dir())]
    return [FoundReport(folder=each, report=report) for each in folders for report in all_of(each)]


def cells(found: Sequence[FoundReport]) -> dict[str, tuple[FoundReport, CellRecord]]:
    """Return the cells of reports, by id.

    If two reports have a cell, the later one counts. If both have built the same compilation, the one counts whose
    target was run.
    """
    chosen: dict[str, tuple[FoundReport, CellRecord]] = {}
    for each in found:
        for cell in each.report.cells:
            if cell.id not in chosen or _counts_more(cell, chosen[cell.id][1]):
                chosen[cell.id] = (each, cell)
    return chosen


def _counts_more(cell: CellRecord, other: CellRecord) -> bool:
    alike = cell.status == other.status == "done" and _compiled(cell) == _compiled(other)
    if alike and bool(cell.not_run) != bool(other.not_run):
        return not cell.not_run
    return cell.finished > other.finished


def _compiled(cell: CellRecord) -> str:
    """Return the key of the compilation that the cell's packages hold."""
    label = f"{cell.image}-{cell.target}-{cell.allocator}"
    return next((stage.key for stage in cell.stages if (stage.stage, stage.label) == ("compile", label)), "")


def merged(found: Sequence[FoundReport], *, base: Path) -> BuildReport:
    """Return one report of several.

    Args:
        found: at least one report.
        base: the folder that paths of packages are relative to afterwards.

    Raises:
        ConfigError: they contradict each other. The message has every contradiction.
    """
    wrong = list(contradictions(found))
    if wrong:
        raise ConfigError(
            "the reports contradict each other, so that one page cannot show them",
            where=", ".join(dict.fromkeys(str(each.folder) for each in found)),
            hint="\n".join([*wrong[:10], *([f"and {len(wrong) - 10} more"] if len(wrong) > 10 else [])]),
        )
    chosen = cells(found)
    return BuildReport(
        product=found[0].report.product,
        version=found[0].report.version,
        cells=tuple(_moved(cell, each.folder, base) for _, (each, cell) in sorted(chosen.items())),
    )


def _moved(cell: CellRecord, folder: Path, base: Path) -> CellRecord:
    """Return a cell with the paths of its packages relative to another folder."""
    way = posixpath.relpath(folder.resolve().as_posix(), base.resolve().as_posix())
    if way == ".":
        return cell
    moved = (each.model_copy(update={"path": f"{way}/{each.path}"}) for each in cell.artifacts)
    return cell.model_copy(update={"artifacts": tuple(moved)})


def contradictions(found: Sequence[FoundReport]) -> Iterator[str]:
    """Yield what cannot be true at the same time, a sentence each."""
    what: dict[tuple[str, str], Path] = {}
    for each in found:
        what.setdefault((each.report.product, each.report.version), each.folder)
    if len(what) > 1:
        places = "; ".join(f"{product} {version} in {folder}" for (product, version), folder in what.items())
        yield f"they are about different things: {places}"
        return
    known: dict[str, tuple[CellRecord, Path]] = {}
    for each in found:
        for cell in each.report.cells:
            other, place = known.setdefault(cell.id, (cell, each.folder))
            if other is not cell:
                for sentence in _different(other, cell):
                    yield f"{cell.id}: {sentence}, by {place} and by {each.folder}"


def _different(one: CellRecord, two: CellRecord) -> Iterator[str]:
    for name in ("model", "image", "allocator"):
        if getattr(one, name) != getattr(two, name):
            yield f"its {name} is {getattr(one, name)} and {getattr(two, name)}"
    if one.finished == two.finished and one.status != two.status:
        yield f"it is {one.status} and {two.status} at the same moment"
    keys = {(stage.stage, stage.label): stage.key for stage in one.stages if stage.key}
    same = {stage.stage for stage in two.stages if stage.key and keys.get((stage.stage, stage.label)) == stage.key}
    facts = {"audit": (one.audit, two.audit), "package": (one.manifest or None, two.manifest or None)}
    for stage in PURE:
        first, second = facts[stage]
        if stage in same and first is not None and second is not None and first != second:
            yield f"the {stage} stage has two results under one key"
