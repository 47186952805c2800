"""The manifest of a package: what it was built from, and what proves it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pikaforge.audit.audit_record import AuditRecord
from pikaforge.audit.distribution import PackagedRecord
from pikaforge.config.compilers import adaptations
from pikaforge.config.licences import NOASSERTION
from pikaforge.config.schema import Spec
from pikaforge.formats.manifest import (
    Manifest,
    ManifestAdaptation,
    ManifestAllocator,
    ManifestAudit,
    ManifestFile,
    ManifestImage,
    ManifestLibrary,
    ManifestLicence,
    ManifestOs,
    ManifestRun,
    ManifestSource,
    ManifestTarball,
)
from pikaforge.pipeline.allocator import AllocatorFacts
from pikaforge.pipeline.compile import BundledLibrary, CompileFacts, LicenceRecord
from pikaforge.pipeline.image.facts import ImageStageFacts
from pikaforge.pipeline.smoke.record import SmokeFacts
from pikaforge.pipeline.source.facts import SourceFacts
from pikaforge.plan import allocators, twins
from pikaforge.plan.cells import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFacts:
    """The facts of all stages that a cell's package is made from."""

    source: SourceFacts
    image: ImageStageFacts
    compiled: CompileFacts
    audited: AuditRecord
    smoked: SmokeFacts
    allocator: AllocatorFacts | None
    """None where none was built."""


def manifest(spec: Spec, cell: Cell, facts: CellFacts, contents: Sequence[ManifestFile]) -> Manifest:
    """Return the manifest of a cell's package with some contents."""
    source, image, compiled, smoked = facts.source, spec.images[cell.image], facts.compiled, facts.smoked
    return Manifest(
        product=spec.product.name,
        version=spec.product.version,
        cell=cell.id,
        model=cell.model,
        cpus=spec.hardware[cell.model].cpus,
        target=cell.target,
        wanted_target=cell.wanted,
        flags=cell.flags,
        allocator=_allocator(spec, cell, facts),
        image=ManifestImage(
            name=cell.image,
            os=ManifestOs(id=image.os.id, version=image.os.version),
            base=facts.image.base,
            baseline=image.baseline,
            build_packages=dict(facts.image.packages["build"]),
            runtime_packages=dict(facts.image.packages.get("runtime", ())),
        ),
        source=ManifestSource.model_validate(source, from_attributes=True),
        source_date_epoch=source.epoch,
        compiler=compiled.compiler,
        adaptations=tuple(
            ManifestAdaptation.model_validate(entry, from_attributes=True) for entry in adaptations(spec, cell.image)
        ),
        keep_werror=spec.product.keep_werror,
        dropped_flags=compiled.dropped,
        bundled_libraries=tuple(_library(library, facts.audited.packaged) for library in compiled.bundled),
        licences=tuple(_licences(spec, cell, facts)),
        audit=ManifestAudit.model_validate(facts.audited, from_attributes=True),
        checks=tuple(check.name for check in smoked.checks),
        tried=ManifestRun(target=smoked.tried, not_run=twins.sentence(cell.target, smoked.tried)),
        contents=tuple(contents),
    )


def _allocator(spec: Spec, cell: Cell, facts: CellFacts) -> ManifestAllocator:
    built = facts.allocator
    return ManifestAllocator(
        name=cell.allocator,
        kind=spec.allocators[cell.allocator].kind,
        **facts.audited.allocator,
        version=built.version if built is not None else None,
        tarballs={
            folder: ManifestTarball.model_validate(tarball, from_attributes=True)
            for folder, tarball in built.tarballs.items()
        }
        if built is not None
        else None,
        built=built.unwinder if built is not None else None,
    )


def _licences(spec: Spec, cell: Cell, facts: CellFacts) -> Iterator[ManifestLicence]:
    """Return the licences that travel along; matrix and allocator's kind have the names of what is built here."""
    product, kind = spec.product, allocators.kind_of(spec, cell.allocator)
    stated = {kind.name: kind.licence, **kind.other_licences} if facts.allocator is not None else {}
    if product.licence != NOASSERTION:
        stated[product.name] = product.licence
    found = {record.of: record for record in facts.compiled.licences}
    for name in dict.fromkeys((product.name, *found)):
        record = found.get(name, LicenceRecord(of=name))
        yield ManifestLicence(of=name, names=(stated[name],) if name in stated else record.names, files=record.files)


def _library(library: BundledLibrary, packaged: Mapping[str, PackagedRecord]) -> ManifestLibrary:
    """Return a library that travels along; of the distribution's own, with what the audit found of its package."""
    own = packaged.get(library.path)
    return ManifestLibrary(**{**library.model_dump(), **(own.model_dump() if own is not None else {})})
