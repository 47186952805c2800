"""report.html: the matrix as a grid, and a page for each cell, in one file."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pikaforge.attest.describe import PROVENANCE_SUFFIX, SBOM_SUFFIX, SIGNATURE_SUFFIX
from pikaforge.host import watch
from pikaforge.host.durable import write_pieces
from pikaforge.host.text import one_line
from pikaforge.pages.notation import LABELS, moment, natural
from pikaforge.pages.page import pieces
from pikaforge.pipeline.report_page.changes import changes
from pikaforge.pipeline.report_page.data import Beside, ReportPageData, ReportPageSources
from pikaforge.pipeline.report_page.states import STATES
from pikaforge.pipeline.report_record import BuildReport
from pikaforge.plan.cells import Cell

NAME = "report.html"
SHOWN_FAILURES = 50
"""Failed cells that are listed above the grid."""
Row = Mapping[str, object]


def name_of(report: str) -> str:
    """Return the file name of a report's page, which lies beside it."""
    return f"{report.removesuffix('.json')}.html"


def beside_in(folder: Path) -> Beside:
    """Return what finds packages and the files beside them below a folder."""

    def find(path: str) -> tuple[tuple[str, str], ...] | None:
        if not (folder / path).is_file():
            return None
        suffixes = (SBOM_SUFFIX, PROVENANCE_SUFFIX, SIGNATURE_SUFFIX)
        return tuple((LABELS[each], path + each) for each in suffixes if (folder / (path + each)).is_file())

    return find


def sources(
    page: Path,
    report: BuildReport,
    *,
    earlier: BuildReport | None = None,
    since: str = "",
    planned: Sequence[Cell] = (),
    logs: Path | None = None,
) -> ReportPageSources:
    """Return what a page on this machine shows beside its report.

    Args:
        page: its path.
        report: the report; paths in it are relative to the page's folder.
        earlier: what it is compared with.
        since: where that is from.
        planned: cells of the matrix.
        logs: the folder with the builds' logs, if it is on this machine.
    """
    ids = {cell.id for cell in report.cells}
    here = page.parent.resolve().as_posix()
    return ReportPageSources(
        beside=beside_in(page.parent),
        changes=None if earlier is None else changes(report, earlier),
        since=since,
        unseen=0 if earlier is None else sum(cell.id not in ids for cell in earlier.cells),
        planned=planned,
        logs=logs,
        way_to_logs="" if logs is None else posixpath.relpath(logs.resolve().as_posix(), here),
    )


def write(page: Path, report: BuildReport, given: ReportPageSources) -> Path:
    """Write the page of a report, unless it is there already; return its path."""
    data = ReportPageData.of(report, given)
    write_pieces(page, lambda: (piece.encode() for piece in _pieces(data)))
    return page


def write_beside(file: Path, report: BuildReport, *, logs: Path | None) -> Path:
    """Write the page of a report beside its file; return its path."""
    target = file.with_name(name_of(file.name))
    if logs is not None:
        watch.note_path(logs)
    there = logs if logs is not None and logs.is_dir() else None
    return write(target, report, sources(target, report, logs=there))


def text(report: BuildReport, given: ReportPageSources) -> str:
    """Return the text of a report's page. The same report and sources give the same bytes."""
    return "".join(_pieces(ReportPageData.of(report, given)))


def _pieces(data: ReportPageData) -> Iterator[str]:
    """Return the text of a page in pieces."""
    report, given = data.report, data.sources
    rows = data.rows
    by_id = {str(row["id"]): row for row in rows}
    counts = Counter(str(row["state"]) for row in rows)
    changed = [row for row in rows if row["changed"]]
    return pieces(
        "report",
        data.elements,
        product=report.product,
        version=report.version,
        newest=max((moment(cell.finished) for cell in report.cells), default=""),
        states=STATES,
        counts=[(state, counts[state.name]) for state in STATES.values() if counts[state.name]],
        rows=rows,
        grid=_grid(rows),
        failed=[row for row in rows if row["state"] == "failed"],
        shown_failures=SHOWN_FAILURES,
        compared=given.changes is not None,
        since=given.since,
        unseen=given.unseen,
        changed=changed,
        kinds=_kinds(given, by_id),
        choices=[(name, f"all {name}s", _values(rows, name)) for name in ("model", "image", "allocator")],
        line=_line,
    )


def _line(value: object) -> str:
    """Return a text from a build in one line, without letters that control how others are shown."""
    return re.sub(r"\s+", " ", one_line(str(value)))


def _values(rows: Iterable[Row], name: str) -> list[str]:
    return sorted({str(row[name]) for row in rows}, key=natural)


def _grid(rows: Sequence[Row]) -> dict[str, object]:
    """Return heads and lines of the table of models, images and allocators."""
    columns: dict[str, list[str]] = {}
    for image in _values(rows, "image"):
        columns[image] = _values((row for row in rows if row["image"] == image), "allocator")
    by_place = {(row["model"], row["image"], row["allocator"]): row for row in rows}
    lines = [
        (
            model,
            [
                (image, allocator, by_place.get((model, image, allocator)))
                for image, allocators in columns.items()
                for allocator in allocators
            ],
        )
        for model in _values(rows, "model")
    ]
    return {"columns": columns, "lines": lines, "plain": all(len(each) == 1 for each in columns.values())}


def _kinds(given: ReportPageSources, rows: Mapping[str, Row]) -> list[tuple[str, int, list[str]]]:
    """Return kinds of changes, each with the number of cells that have it, and the ids of some."""
    found: dict[str, list[str]] = {}
    for id_, lines in (given.changes or {}).items():
        for what in dict.fromkeys(line["what"] for line in lines):
            found.setdefault(what, []).append(id_)
    return [(what, len(ids), [id_ for id_ in ids if id_ in rows][:3]) for what, ids in found.items()]
