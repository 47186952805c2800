"""Collection of packages under dist/ for publishing: those that a build report lists, compared with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pikaforge.attest.describe import PROVENANCE_SUFFIX, SBOM_SUFFIX, SIGNATURE_SUFFIX
from pikaforge.config.schema import Spec
from pikaforge.formats.artifact import ArtifactRecord
from pikaforge.formats.format import BuildOrigin, of
from pikaforge.host.store import sha256
from pikaforge.pipeline.report import all_of, package_path
from pikaforge.pipeline.report_record import BuildReport, CellRecord
from pikaforge.publish.diff import Item
from pikaforge.publish.state import Artifact, File

BESIDE = (SBOM_SUFFIX, PROVENANCE_SUFFIX, SIGNATURE_SUFFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundReport:
    """A report, and the folder that it is about."""

    folder: Path
    report: BuildReport


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedPackages:
    """Packages, and their files on this machine."""

    items: tuple[Item, ...]
    sources: Mapping[tuple[str, str], Path]
    """By place and path: each artifact, and the files beside it."""


def reports(dist: Path) -> list[FoundReport]:
    """Read the reports of a folder and those of its folders, in which the jobs of a CI run leave theirs."""
    folders = [dist, *sorted(path for path in dist.glob("*/") if path.is_dir())]
    return [FoundReport(folder=folder, report=report) for folder in folders for report in all_of(folder)]


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


def collect(chosen: Sequence[tuple[FoundReport, CellRecord]], spec: Spec, *, now: str) -> CollectedPackages:
    """Return the packages of some cells, each compared with its report.

    Raises:
        PublishError: a package is missing, or is not what the report says.
    """
    items: list[Item] = []
    sources: dict[tuple[str, str], Path] = {}
    for found, cell in chosen:
        image = spec.images.get(cell.image)
        variant = "" if image is None or cell.allocator == image.allocator else cell.allocator
        for record in cell.artifacts:
            path = package_path(found.folder, record)
            item = Item(
                product=found.report.product,
                image=cell.image,
                model=cell.model,
                artifact=_artifact(path, record, cell, found.report, variant=variant, now=now),
            )
            items.append(item)
            for file in item.artifact.files():
                sources[item.place, file.path] = path.with_name(file.name)
    return CollectedPackages(items=tuple(items), sources=sources)


def _artifact(
    path: Path, record: ArtifactRecord, cell: CellRecord, report: BuildReport, *, variant: str, now: str
) -> Artifact:
    kind = of(record.format)
    origin = BuildOrigin(product=report.product, version=report.version, role=record.role, variant=variant)
    identity = kind.identity(path, origin)
    return Artifact(
        **record.model_copy(update={"path": f"{kind.folder}/{path.name}"}).model_dump(),
        package=identity.name,
        version=identity.full_version,
        product_version=report.version,
        cell=cell.id,
        allocator=cell.allocator,
        target=cell.target,
        wanted=cell.wanted if cell.wanted != cell.target else "",
        not_run=cell.not_run,
        epoch=cell.epoch,
        built=cell.finished,
        published=now,
        since=1,
        body=kind.body(path),
        beside=tuple(_beside(path, kind.folder)),
    )


def _beside(path: Path, folder: str) -> Iterator[File]:
    for suffix in BESIDE:
        file = path.with_name(path.name + suffix)
        if file.is_file():
            yield File(path=f"{folder}/{file.name}", sha256=sha256(file), bytes=file.stat().st_size)
