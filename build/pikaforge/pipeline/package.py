"""The package stage: a cell's tree is packed with manifest, tools and units, in each format of its image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path

from pikaforge.attest.contents import contents_of
from pikaforge.audit.audit_record import AuditRecord
from pikaforge.config import compilers, families
from pikaforge.config.product import Product
from pikaforge.config.scalars import Strict, plain
from pikaforge.config.schema import Image, Spec
from pikaforge.errors import StageError, StageFailure
from pikaforge.formats import payload
from pikaforge.formats.artifact import ArtifactRecord
from pikaforge.formats.format import of, pack
from pikaforge.formats.manifest import FORMAT as MANIFEST_FORMAT
from pikaforge.formats.manifest import MANIFEST
from pikaforge.formats.package_inputs import AllocatorInputs, PackageInputs
from pikaforge.formats.packing import STAGE as STAGE_NAME
from pikaforge.formats.packing import Packed, Packing, sources
from pikaforge.host import hashing
from pikaforge.host.job import files
from pikaforge.host.memo import for_last
from pikaforge.host.store import Result, sha256
from pikaforge.host.workspace import Workspace, guest_digests
from pikaforge.pipeline.allocator import PREFIX, AllocatorFacts
from pikaforge.pipeline.compile import CompileFacts
from pikaforge.pipeline.image.facts import ImageStageFacts
from pikaforge.pipeline.manifest import CellFacts, manifest
from pikaforge.pipeline.smoke.record import SmokeFacts
from pikaforge.pipeline.source.facts import SourceFacts
from pikaforge.pipeline.stage import BaseStage, Inputs, Material, RunContext
from pikaforge.plan import allocators
from pikaforge.plan.cells import Cell
from pikaforge.plan.plan import Node
from pikaforge.plan.stages import Needs, Scope, Slot

Offers = Mapping[str, Sequence[str]]
"""Models by target: the packages that the CPU gate may advise."""


def _payload(spec: Spec, cell: Cell, others: Offers, features: Sequence[str] | None = None) -> payload.Rendered:
    """Return what goes in beside the tree; the CPU gate asks for `features`, which the audit found in use."""
    return payload.render(
        spec.product,
        model=cell.model,
        target=cell.target,
        image=cell.image,
        features=features,
        others=others,
    )


def material(spec: Spec, cell: Cell, home: Path, *, others: Offers) -> dict[str, object]:
    """Return the key material: what goes into the package, and is not in the results that it is made from."""
    wanted = spec.images[cell.image].formats
    kind = allocators.kind_of(spec, cell.allocator)
    return {
        "cell": cell.id,
        "wanted": cell.wanted,
        "cpus": list(spec.hardware[cell.model].cpus),
        "payload": hashing.Encoded.of_files(_payload(spec, cell, others).contents),
        "allocator": [kind.name, kind.licence, kind.url] if kind.own else [],
        "formats": list(wanted),
        "scripts": guest_digests(home, _scripts(wanted)),
        "packers": _packers(),
        "product": _about(spec.product),
        "manifest": MANIFEST_FORMAT,
        **_of_images(spec)(cell.image),
    }


@lru_cache(maxsize=64)
def _scripts(wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the guest scripts of some formats."""
    return tuple(sorted({script for name in wanted for script in of(name).scripts}))


@for_last
def _of_images(spec: Spec) -> Callable[[str], Mapping[str, hashing.Encoded]]:
    """Return what returns the key material that all packages of an image have in common."""

    @cache
    def of_image(name: str) -> Mapping[str, hashing.Encoded]:
        image = spec.images[name]
        found = {
            "system": _system(image),
            "makers": {each: dict(of(each).material()) for each in image.formats},
            "compilers": compilers.facts(spec, name),
        }
        return {part: hashing.Encoded(value) for part, value in found.items()}

    return of_image


@lru_cache(maxsize=1)
def _packers() -> hashing.Encoded:
    """Return the digests of this tool's own files that make packages: they stay while it runs."""
    return hashing.Encoded(sources())


@for_last
def _about(product: Product) -> hashing.Encoded:
    """Return what packages say of a product."""
    said = {"name", "version", "release", "summary", "description", "licence", "url", "maintainer"}
    return hashing.Encoded({name: plain(getattr(product, name)) for name in said})


def _system(image: Image) -> list[object]:
    """Return what packages take from the OS family."""
    family, os = families.of(image.family), image.os
    return [family.dist_tag(os.id, os.version), family.reads_zstd(os.version), asdict(family.services(os.version))]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResults:
    """The results that a cell's package is made from."""

    source: Result
    image: Result
    compiled: Result
    audited: Result
    smoked: Result
    allocator: Result | None = None
    """None where none was built."""

    def facts(self) -> CellFacts:
        """Return the facts of all."""
        return CellFacts(
            source=self.source.read(SourceFacts),
            image=self.image.read(ImageStageFacts),
            compiled=self.compiled.read(CompileFacts),
            audited=self.audited.read(AuditRecord),
            smoked=self.smoked.read(SmokeFacts),
            allocator=self.allocator.read(AllocatorFacts) if self.allocator is not None else None,
        )

    def inputs(self, facts: CellFacts) -> PackageInputs:
        """Return what formats take of them."""
        built, allocator = facts.allocator, self.allocator
        return PackageInputs(
            epoch=facts.source.epoch,
            tree=self.compiled.files["tree.tar"],
            debug=self.compiled.files["debug.tar"],
            build_ids={file.name: file.build_id for file in facts.audited.files},
            library_versions=facts.audited.library_versions,
            allocator=AllocatorInputs(
                version=built.version,
                unwinder=built.unwinder.get("asked", ""),
                epoch=built.epoch,
                needs=built.needs,
                prefix=allocator.files[PREFIX],
            )
            if built is not None and allocator is not None
            else None,
        )


class PackageFacts(Strict):
    """Facts of a cell's packages."""

    artifacts: tuple[ArtifactRecord, ...]
    """The packages, the product's own first; paths are names of the result's files."""
    manifest: dict[str, object]
    """The manifest as JSON (`pipeline.manifest`)."""


def make(
    workspace: Workspace,
    spec: Spec,
    cell: Cell,
    results: CellResults,
    *,
    key: str,
    tools: str,
    others: Offers,
) -> Result:
    """Pack one cell in every format of its image; store `PackageFacts` and the packages by their names.

    Raises:
        StageError: a packer failed, or made something that cannot be true.
        PackingError: the tree cannot be packed in a format.
    """
    facts = results.facts()
    inputs = results.inputs(facts)
    rendered = _payload(spec, cell, others, facts.audited.kernel_flags)
    contents = contents_of(inputs.tree, rendered.contents, executable=rendered.executable)
    described = manifest(spec, cell, facts, contents)
    extra: dict[str, bytes | Path] = {**rendered.contents, MANIFEST: described.text().encode()}
    with workspace.store.scratch() as scratch:
        made = pack(
            Packing(
                workspace=workspace,
                spec=spec,
                cell=cell,
                inputs=inputs,
                manifest=described,
                rendered=rendered,
                extra=files(extra, executable=rendered.executable),
                tools=tools,
                scratch=scratch,
            )
        )
        artifacts = tuple(_record(packed) for packed in made)
        _check(spec, cell, facts, artifacts)
        return workspace.store.put(
            STAGE_NAME,
            key,
            identity=hashing.digest("".join(artifact.model_dump_json() for artifact in artifacts)),
            facts=PackageFacts(artifacts=artifacts, manifest=described.as_json()),
            files={packed.name: packed.path for packed in made},
        )


def _record(packed: Packed) -> ArtifactRecord:
    return ArtifactRecord(
        format=packed.format,
        role=packed.role,
        path=packed.name,
        sha256=sha256(packed.path),
        bytes=packed.path.stat().st_size,
    )


SMALLEST = 0.05
"""Least size of a package, as a part of its programs' size. No compressor makes machine code smaller than a fifth or
so, and upstream once published a release of 11 kB that had no program in it (UPSTREAM's issue tracker)."""


def _check(spec: Spec, cell: Cell, facts: CellFacts, artifacts: Sequence[ArtifactRecord]) -> None:
    """Raise StageError for what cannot be a package of the tree: without programs, too small, or never smoke-tested."""
    sizes = {file.name: file.bytes for file in facts.audited.files}
    missing = [name for name in spec.product.binaries if name not in sizes]
    least = sum(sizes.get(name, 0) for name in spec.product.binaries) * SMALLEST
    small = [artifact.name for artifact in artifacts if artifact.role == "main" and artifact.bytes < least]
    reason = ""
    if missing:
        reason = f"{', '.join(missing)} is not among what was audited"
    elif small:
        reason = f"{', '.join(small)} is smaller than its programs can be packed"
    elif not facts.smoked.checks:
        reason = "no smoke check has passed"
    if reason:
        raise StageError(f"no package is made: {reason}", StageFailure(stage=STAGE_NAME, label=cell.id))


class PackageStage(BaseStage):
    """Packs a cell."""

    name = STAGE_NAME
    scope: Scope = "cell"
    facts = PackageFacts
    reads = frozenset({"source", "allocator", "compile"})

    def needs(self, slot: Slot) -> Needs:
        """Return that it needs the results of all other stages."""
        group = slot.cell.group
        made = (slot.source, slot.image, f"compile:{group}", *slot.allocator)
        return Needs(ids=(*made, f"audit:{group}", f"smoke:{group}", *slot.tools))

    def material(self, node: Node, run: RunContext, *, offline: bool) -> Material:
        """Return payload, formats and packers as key material."""
        return Material(facts=material(run.spec, node.cell, run.home, others=run.others(node.cell)))

    def remarks(self, result: Result, run: RunContext, *, fresh: bool) -> Iterable[str]:
        """Return how the model is written in the names of packages that cannot have its dash."""
        found = result.read(PackageFacts)
        model = found.manifest.get("model")
        if not fresh or not isinstance(model, str) or "-" not in model:
            return ()
        written = model.replace("-", "+")
        names = [artifact.name for artifact in found.artifacts if written in artifact.name]
        if not names:
            return ()
        return (f"a release has no dash, so the model {model} is written {written} in {', '.join(names)}",)

    def unfit(self, result: Result, run: RunContext) -> str:
        """Return that its files are not the packages that it lists."""
        found = {artifact.path: artifact.sha256 for artifact in result.read(PackageFacts).artifacts}
        if set(found) != set(result.files):
            return "its files are not the packages that it lists"
        wrong = [name for name, path in result.files.items() if sha256(path) != found[name]]
        return f"{wrong[0]} is not the package that it lists" if wrong else ""

    def make(self, inputs: Inputs, run: RunContext, *, key: str) -> Result:
        """Pack it in every format."""
        results = CellResults(
            source=inputs.source,
            image=inputs.image,
            allocator=inputs.allocator,
            compiled=inputs.of("compile"),
            audited=inputs.of("audit"),
            smoked=inputs.of("smoke"),
        )
        cell = inputs.node.cell
        return make(run.workspace, run.spec, cell, results, key=key, tools=inputs.tools, others=run.others(cell))


STAGE = PackageStage()
