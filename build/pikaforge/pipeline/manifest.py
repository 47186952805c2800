"""The manifest of a package: what it was built from, and what proves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pikaforge.attest.contents import Listed
from pikaforge.audit.audit_record import AuditRecord
from pikaforge.audit.distribution import PackagedRecord
from pikaforge.audit.judge_instructions import DispatchedRecord
from pikaforge.config.compilers import adaptations
from pikaforge.config.product import Adaptation
from pikaforge.config.scalars import Strict
from pikaforge.config.schema import Spec
from pikaforge.pipeline.allocator import AllocatorFacts, TarballFacts
from pikaforge.pipeline.compile import BundledLibrary, CompileFacts
from pikaforge.pipeline.image.facts import ImageStageFacts
from pikaforge.pipeline.smoke.record import SmokeFacts
from pikaforge.pipeline.source.facts import OriginFacts, PatchFacts, SourceFacts
from pikaforge.plan import twins
from pikaforge.plan.cells import Cell

FORMAT = 4


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


class ManifestAllocator(Strict):
    """The allocator: what was asked for, what was built, and what the audit found in use."""

    name: str
    kind: str
    library: str
    unwinder: str
    version: str | None = None
    """Of one that was built; as the next two are."""
    tarballs: Mapping[str, TarballFacts] | None = None
    built: Mapping[str, str] | None = None


class ManifestOs(Strict):
    """The OS of an image, as the matrix calls it."""

    id: str
    version: str


class ManifestImage(Strict):
    """The OS image."""

    name: str
    os: ManifestOs
    base: str
    baseline: str
    build_packages: Mapping[str, str]
    """Version by name."""
    runtime_packages: Mapping[str, str]


class ManifestSource(OriginFacts):
    """The source."""

    head: str
    patches: tuple[PatchFacts, ...]
    submodules: Mapping[str, str]


class ManifestLibrary(BundledLibrary):
    """A library that travels along; of the distribution's own, version and digest are those of its package."""

    code: str | None = None
    """SHA-256 of the code of one of the distribution's own."""


class ManifestAudit(Strict):
    """What the audit found."""

    allow_list: str
    features_used: tuple[str, ...]
    kernel_flags: tuple[str, ...]
    symbol_versions: Mapping[str, str]
    system_libraries: tuple[str, ...]
    dispatched: tuple[DispatchedRecord, ...]


class ManifestRun(Strict):
    """The target whose tree was run."""

    target: str
    not_run: str
    """What was not run, if that is another target than the package's."""


class Manifest(Strict):
    """What a package says of itself. Every value is decided by the inputs, none by the moment of building."""

    format: int = FORMAT
    product: str
    version: str
    cell: str
    model: str
    cpus: tuple[str, ...]
    target: str
    wanted_target: str
    flags: tuple[str, ...]
    allocator: ManifestAllocator
    image: ManifestImage
    source: ManifestSource
    source_date_epoch: int
    compiler: tuple[str, ...]
    adaptations: tuple[Adaptation, ...]
    keep_werror: bool
    dropped_flags: tuple[tuple[int, str], ...]
    bundled_libraries: tuple[ManifestLibrary, ...]
    audit: ManifestAudit
    checks: tuple[str, ...]
    tried: ManifestRun
    contents: tuple[Listed, ...]
    """Files and links of the package, sorted by path; not the manifest itself."""

    def as_json(self) -> dict[str, object]:
        """Return it as the package has it."""
        # A patch of a package that was built is not in conflict, so it has no reasons for that.
        unused = {"source": {"patches": {"__all__": {"reasons"}}}}
        return self.model_dump(mode="json", exclude=unused, exclude_none=True)


def manifest(spec: Spec, cell: Cell, facts: CellFacts, contents: Sequence[Listed]) -> Manifest:
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
        adaptations=adaptations(spec, cell.image),
        keep_werror=spec.product.keep_werror,
        dropped_flags=compiled.dropped,
        bundled_libraries=tuple(_library(library, facts.audited.packaged) for library in compiled.bundled),
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
        tarballs=built.tarballs if built is not None else None,
        built=built.unwinder if built is not None else None,
    )


def _library(library: BundledLibrary, packaged: Mapping[str, PackagedRecord]) -> ManifestLibrary:
    own = packaged.get(library.path)
    return ManifestLibrary(**{**library.model_dump(), **(own.model_dump() if own is not None else {})})
