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
from pikaforge.pipeline.dist_before import refuse_changed
from pikaforge.pipeline.dist_folder import listed
from pikaforge.pipeline.report import package_path
from pikaforge.pipeline.report_page.merge import FoundReport
from pikaforge.pipeline.report_record import BuildReport, CellRecord
from pikaforge.publish.diff import Item
from pikaforge.publish.state import Artifact, File

BESIDE = (SBOM_SUFFIX, PROVENANCE_SUFFIX, SIGNATURE_SUFFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedPackages:
    """Packages, and their files on this machine."""

    items: tuple[Item, ...]
    records: tuple[CellRecord, ...]
    """What the build reports have of their cells."""
    sources: Mapping[tuple[str, str], Path]
    """By place and path: each artifact, and the files beside it."""


def collect(chosen: Sequence[tuple[FoundReport, CellRecord]], spec: Spec, *, now: str) -> CollectedPackages:
    """Return the packages of some cells, each compared with its report.

    Raises:
        PublishError: a package is missing, or is not what the report says; or what describes it is not what SHA256SUMS
            says.
    """
    sums: dict[Path, Mapping[str, str]] = {}
    items: list[Item] = []
    sources: dict[tuple[str, str], Path] = {}
    for found, cell in chosen:
        image = spec.images.get(cell.image)
        variant = "" if image is None or cell.allocator == image.allocator else cell.allocator
        for record in cell.artifacts:
            path = package_path(found.folder, record)
            if path.parent not in sums:
                sums[path.parent] = listed(path.parent).digests
            beside = tuple(_beside(path, of(record.format).folder, sums[path.parent]))
            item = Item(
                product=found.report.product,
                image=cell.image,
                model=cell.model,
                artifact=_artifact(path, record, cell, found.report, beside, variant=variant, now=now),
            )
            items.append(item)
            for file in item.artifact.files():
                sources[item.place, file.path] = path.with_name(file.name)
    return CollectedPackages(items=tuple(items), records=tuple(cell for _, cell in chosen), sources=sources)


def _artifact(
    path: Path,
    record: ArtifactRecord,
    cell: CellRecord,
    report: BuildReport,
    beside: tuple[File, ...],
    *,
    variant: str,
    now: str,
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
        beside=beside,
    )


def _beside(path: Path, folder: str, noted: Mapping[str, str]) -> Iterator[File]:
    """Yield the files beside a package, after a comparison with SHA256SUMS, which has none of signatures."""
    for suffix in BESIDE:
        file = path.with_name(path.name + suffix)
        if file.is_file():
            digest = sha256(file)
            refuse_changed(file, digest, noted)
            yield File(path=f"{folder}/{file.name}", sha256=digest, bytes=file.stat().st_size)
