"""The build report of a published root, and its page: what proves the packages that are listed there.

`report.json` has the last record of each cell whose packages are all listed. A publication replaces the records of its
cells. A rollback takes away those of its cells, because the packages before have other digests.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping

from pikaforge.pages.notation import LABELS, natural
from pikaforge.pipeline import report, report_file
from pikaforge.pipeline.report_page import page
from pikaforge.pipeline.report_page.data import ReportPageSources
from pikaforge.pipeline.report_record import BuildReport, CellRecord
from pikaforge.publish.state import Artifact, Catalogue

REPORT = report.NAME
REPORT_LIMIT = 256 << 20
"""Bytes of a published report. One of a thousand cells has some 20 MB."""
Place = tuple[str, Artifact]
"""A repository's path, and a package in it."""


def report_files(catalogue: Catalogue, there: bytes | None, fresh: Iterable[CellRecord]) -> dict[str, bytes]:
    """Return report and page of a root by path.

    Args:
        catalogue: what is listed.
        there: the report that the root has; None if it has none.
        fresh: records of the cells that are published now.

    Raises:
        HostError: Jinja2 is missing.
    """
    cells = (*records(there), *fresh)
    places = _places(catalogue, {artifact.name for cell in cells for artifact in cell.artifacts})
    made = _merged(catalogue, cells, places)
    by_path = {f"{path}/{artifact.path}": (path, artifact) for path, artifact in places.values()}

    def beside(path: str) -> tuple[tuple[str, str], ...] | None:
        found = by_path.get(path)
        return None if found is None else tuple(_beside(*found))

    return {
        REPORT: report_file.text(made),
        page.NAME: page.text(made, ReportPageSources(beside=beside)).encode(),
    }


def records(data: bytes | None) -> tuple[CellRecord, ...]:
    """Return the cells of a root's report; none if there is none that this version reads: it is made anew."""
    found = None if data is None else report_file.parsed(data)
    return () if found is None else found.cells


def _places(catalogue: Catalogue, names: Container[str]) -> dict[tuple[str, str], Place]:
    """Return the packages of a root that have one of some file names, by file name and digest."""
    return {
        (artifact.name, artifact.sha256): (repository.path, artifact)
        for repository in catalogue.repositories
        for artifact in repository.artifacts
        if artifact.name in names
    }


def _merged(catalogue: Catalogue, found: Iterable[CellRecord], places: Mapping[tuple[str, str], Place]) -> BuildReport:
    """Return the report of the cells whose packages are all listed; of several records of a cell, the last one."""
    cells = {cell.id: moved for cell in found if (moved := _listed(cell, places)) is not None}
    versions = {artifact.product_version for each in catalogue.repositories for artifact in each.artifacts}
    return BuildReport(
        product=catalogue.product,
        version=", ".join(sorted(versions, key=natural)),
        cells=tuple(cells[name] for name in sorted(cells)),
    )


def _listed(cell: CellRecord, places: Mapping[tuple[str, str], Place]) -> CellRecord | None:
    """Return a cell with its packages where they are in the root; None if one of them is not listed."""
    moved = []
    for artifact in cell.artifacts:
        found = places.get((artifact.name, artifact.sha256))
        if found is None or found[1].cell != cell.id:
            return None
        moved.append(artifact.model_copy(update={"path": f"{found[0]}/{found[1].path}"}))
    return cell.model_copy(update={"artifacts": tuple(moved)}) if moved else None


def _beside(path: str, artifact: Artifact) -> Iterator[tuple[str, str]]:
    for suffix, label in LABELS.items():
        for file in artifact.beside:
            if file.path == artifact.path + suffix:
                yield label, f"{path}/{file.path}"
