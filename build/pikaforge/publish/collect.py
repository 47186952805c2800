"""What is to be published, out of dist/: packages that a report vouches for, as they were delivered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pikaforge.attest.describe import PROVENANCE_SUFFIX, SBOM_SUFFIX, SIGNATURE_SUFFIX
from pikaforge.config.schema import Spec
from pikaforge.formats import format as formats
from pikaforge.formats.artifact import ArtifactRecord
from pikaforge.formats.format import BuildOrigin
from pikaforge.host.store import sha256
from pikaforge.pipeline.report import BuildReport, CellRecord, load, package_path
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
    """Packages with where they are on this machine."""

    items: tuple[Item, ...]
    sources: Mapping[tuple[str, str], Path]
    """By place and path, of each artifact and what lies beside it."""


def reports(dist: Path) -> list[FoundReport]:
    """The report in a folder, and those in its folders: what the jobs of a CI run have delivered, each in its own."""
    folders = [dist, *sorted(path for path in dist.glob("*/") if path.is_dir())]
    found = ((folder, load(folder)) for folder in folders)
    return [FoundReport(folder=folder, report=report) for folder, report in found if report is not None]


def cells(delivered: Sequence[FoundReport]) -> dict[str, tuple[FoundReport, CellRecord]]:
    """The cells that reports tell of, by id.

    Of two reports on one cell the later counts; but of two on the same compilation the one whose target was run.
    """
    found: dict[str, tuple[FoundReport, CellRecord]] = {}
    for each in delivered:
        for cell in each.report.cells:
            if cell.id not in found or _counts_more(cell, found[cell.id][1]):
                found[cell.id] = (each, cell)
    return found


def _counts_more(cell: CellRecord, other: CellRecord) -> bool:
    alike = cell.status == other.status == "done" and _compiled(cell) == _compiled(other)
    if alike and bool(cell.not_run) != bool(other.not_run):
        return not cell.not_run
    return cell.finished > other.finished


def _compiled(cell: CellRecord) -> str:
    """The key of the compilation that the cell's packages hold."""
    label = f"{cell.image}-{cell.target}-{cell.allocator}"
    return next((stage.key for stage in cell.stages if (stage.stage, stage.label) == ("compile", label)), "")


def collect(chosen: Sequence[tuple[FoundReport, CellRecord]], spec: Spec, *, now: str) -> CollectedPackages:
    """The packages of some cells, each compared with its report.

    Raises:
        PublishError: a package is missing, or is not what was delivered.
    """
    items: list[Item] = []
    sources: dict[tuple[str, str], Path] = {}
    for delivered, cell in chosen:
        image = spec.images.get(cell.image)
        usual = image is None or cell.allocator == image.allocator
        for artifact in cell.artifacts:
            path = package_path(delivered.folder, artifact)
            item = Item(
                product=delivered.report.product,
                image=cell.image,
                model=cell.model,
                artifact=_artifact(path, artifact, cell, delivered.report, usual=usual, now=now),
            )
            items.append(item)
            for file in item.artifact.files():
                sources[item.place, file.path] = path.with_name(file.path.rpartition("/")[2])
    return CollectedPackages(items=tuple(items), sources=sources)


def _artifact(
    path: Path, artifact: ArtifactRecord, cell: CellRecord, report: BuildReport, *, usual: bool, now: str
) -> Artifact:
    kind = formats.of(artifact.format)
    origin = BuildOrigin(
        product=report.product, version=report.version, role=artifact.role, variant="" if usual else cell.allocator
    )
    package, version = kind.identity(path, origin)
    return Artifact(
        path=f"{kind.folder}/{path.name}",
        sha256=artifact.sha256,
        bytes=artifact.bytes,
        format=artifact.format,
        role=artifact.role,
        package=package,
        version=version,
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
