"""The package stage: a cell's tree with manifest, tools and units, packed; and its place under dist/."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pikaforge import formats
from pikaforge.attest.contents import MANIFEST, contents_of
from pikaforge.attest.describe import PROVENANCE_SUFFIX, SBOM_SUFFIX, SIGNATURE_SUFFIX, SUMS
from pikaforge.config import compilers, families
from pikaforge.config.schema import Image, Spec
from pikaforge.errors import ForgeError, HostError, StageError, StageFailure
from pikaforge.formats import format as registry
from pikaforge.formats import payload
from pikaforge.formats.format import STAGE as STAGE_NAME
from pikaforge.formats.format import Packing
from pikaforge.formats.package_inputs import PackageInputs
from pikaforge.host import hashing
from pikaforge.host.job import files
from pikaforge.host.store import Result, sha256, write_atomically
from pikaforge.host.workspace import Workspace, guest_digests
from pikaforge.pipeline.stage import BaseStage, Inputs, Material, RunContext
from pikaforge.plan import allocators, twins
from pikaforge.plan.cells import Cell
from pikaforge.plan.plan import Node
from pikaforge.plan.stages import Needs, Scope, Slot

MANIFEST_FORMAT = 4
SOURCE_FACTS = ("kind", "url", "ref", "tag", "version", "commit", "head", "patches", "submodules")
PACKERS = Path(formats.__file__).parent

Offers = Mapping[str, Sequence[str]]
"""Models by target: the packages that the CPU gate may advise."""


def _payload(spec: Spec, cell: Cell, others: Offers, features: Sequence[str] | None = None) -> payload.Rendered:
    """What goes in beside the tree; the CPU gate asks for `features`, what the audit found in use."""
    return payload.render(
        spec.product,
        model=cell.model,
        target=cell.target,
        image=cell.image,
        features=features,
        others=others,
    )


def material(spec: Spec, cell: Cell, home: Path, *, others: Offers) -> dict[str, Any]:
    """Key material: what goes into the package beside the tree, but for what the results tell that it is made of."""
    wanted = spec.images[cell.image].formats
    kind = allocators.kind_of(spec, cell.allocator)
    return {
        "cell": cell.id,
        "wanted": cell.wanted,
        "cpus": list(spec.hardware[cell.model].cpus),
        "payload": {name: hashing.digest(data) for name, data in _payload(spec, cell, others).contents.items()},
        "allocator": [kind.name, kind.licence, kind.url] if kind.own else [],
        "system": _system(spec.images[cell.image]),
        "formats": list(wanted),
        "scripts": guest_digests(home, sorted({script for name in wanted for script in registry.of(name).scripts})),
        "makers": {name: dict(registry.of(name).material()) for name in wanted},
        "packers": hashing.files_digest(
            PACKERS, sorted(str(path.relative_to(PACKERS)) for path in PACKERS.rglob("*.py"))
        ),
        "product": spec.product.model_dump(
            mode="json",
            include={"name", "version", "release", "summary", "description", "licence", "url", "maintainer"},
        ),
        "compilers": compilers.facts(spec, cell.image),
        "manifest": MANIFEST_FORMAT,
    }


def _system(image: Image) -> list[object]:
    """Return what packages take from the OS family."""
    family, os = families.of(image.family), image.os
    return [family.dist_tag(os.id, os.version), family.reads_zstd(os.version), asdict(family.services(os.version))]


def _memory(spec: Spec, cell: Cell, parts: PackageInputs) -> dict[str, Any]:
    """The allocator as the manifest tells it: what was asked for, what was built, and what the audit found in use."""
    entry = spec.allocators[cell.allocator]
    told: dict[str, Any] = {"name": cell.allocator, "kind": entry.kind, **parts.audited.facts["allocator"]}
    if parts.allocator is not None:
        facts = parts.allocator.facts
        told |= {"version": facts["version"], "tarballs": facts["tarballs"], "built": facts["unwinder"]}
    return told


def manifest(spec: Spec, cell: Cell, parts: PackageInputs) -> dict[str, Any]:
    """What a package says of itself; every value is decided by the inputs, none by the moment of building."""
    source, image, compiled, audited = parts.source, parts.image, parts.compiled, parts.audited
    packages = image.facts["packages"]
    return {
        "format": MANIFEST_FORMAT,
        "product": spec.product.name,
        "version": spec.product.version,
        "cell": cell.id,
        "model": cell.model,
        "cpus": list(spec.hardware[cell.model].cpus),
        "target": cell.target,
        "wanted_target": cell.wanted,
        "flags": list(cell.flags),
        "allocator": _memory(spec, cell, parts),
        "image": {
            "name": cell.image,
            "os": {"id": spec.images[cell.image].os.id, "version": spec.images[cell.image].os.version},
            "base": image.facts["base"],
            "baseline": spec.images[cell.image].baseline,
            "build_packages": dict(packages["build"]),
            "runtime_packages": dict(packages.get("runtime", [])),
        },
        "source": {name: source.facts[name] for name in SOURCE_FACTS},
        "source_date_epoch": source.facts["epoch"],
        "compiler": compiled.facts["compiler"],
        **compilers.facts(spec, cell.image),
        "dropped_flags": compiled.facts["dropped"],
        "bundled_libraries": [_library(entry, audited.facts["packaged"]) for entry in compiled.facts["bundled"]],
        "audit": {name: audited.facts[name] for name in AUDITED},
        "checks": [check["name"] for check in parts.smoked.facts["checks"]],
        "tried": {
            "target": parts.smoked.facts["tried"],
            "not_run": twins.sentence(cell.target, parts.smoked.facts["tried"]),
        },
    }


AUDITED = ("allow_list", "features_used", "kernel_flags", "symbol_versions", "system_libraries", "dispatched")
"""What a manifest has of the audit's facts."""


def _library(bundled: Mapping[str, Any], packaged: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """A library that travels along; of the distribution's own what the audit has found, with the digest of its code."""
    return {**bundled, **packaged.get(str(bundled["path"]), {})}


def make(
    workspace: Workspace,
    spec: Spec,
    cell: Cell,
    parts: PackageInputs,
    *,
    key: str,
    tools: str,
    others: Offers,
) -> Result:
    """Pack one cell in every format of its image.

    The result has the packages by their names; its facts are `artifacts` (format, role, name, bytes and sha256 of
    each, the product's own first) and the `manifest`.

    Raises:
        StageError: a packer failed, or made something that cannot be true.
        PackingError: the tree cannot be packed in a format.
    """
    rendered = _payload(spec, cell, others, parts.audited.facts["kernel_flags"])
    described = manifest(spec, cell, parts)
    described["contents"] = contents_of(
        parts.compiled.files["tree.tar"], rendered.contents, executable=rendered.executable
    )
    contents: dict[str, bytes | Path] = {
        **rendered.contents,
        MANIFEST: (json.dumps(described, indent=2, sort_keys=True) + "\n").encode(),
    }
    with workspace.store.scratch() as scratch:
        made = registry.pack(
            Packing(
                workspace=workspace,
                spec=spec,
                cell=cell,
                parts=parts,
                manifest=described,
                rendered=rendered,
                extra=files(contents, executable=rendered.executable),
                tools=tools,
                scratch=scratch,
            )
        )
        artifacts = [
            {
                "format": packed.format,
                "role": packed.role,
                "name": packed.name,
                "bytes": packed.path.stat().st_size,
                "sha256": sha256(packed.path),
            }
            for packed in made
        ]
        _plausible(spec, cell, parts, artifacts)
        return workspace.store.put(
            STAGE_NAME,
            key,
            identity=hashing.digest(json.dumps(artifacts, sort_keys=True)),
            facts={"artifacts": artifacts, "manifest": described},
            files={packed.name: packed.path for packed in made},
        )


SMALLEST = 0.05
"""Of the programs' size at least, a package has: no compressor makes machine code smaller than a fifth or so, and
upstream once published a release of 11 kB that had no program in it (UPSTREAM's issue tracker)."""


def _plausible(spec: Spec, cell: Cell, parts: PackageInputs, artifacts: Sequence[Mapping[str, Any]]) -> None:
    """Refuse what cannot be a package of this tree: without its programs, too small, or never smoke-tested."""
    sizes = {str(f["name"]): int(f.get("bytes", 0)) for f in parts.audited.facts["files"]}
    missing = [name for name in spec.product.binaries if name not in sizes]
    least = sum(sizes.get(name, 0) for name in spec.product.binaries) * SMALLEST
    small = [str(a["name"]) for a in artifacts if a["role"] == "main" and int(a["bytes"]) < least]
    what = ""
    if missing:
        what = f"{', '.join(missing)} is not among what was audited"
    elif small:
        what = f"{', '.join(small)} is smaller than its programs can be packed"
    elif not parts.smoked.facts["checks"]:
        what = "no smoke check has passed"
    if what:
        raise StageError(f"no package is made: {what}", StageFailure(stage=STAGE_NAME, label=cell.id))


def deliver(result: Result, artifact: Mapping[str, Any], folder: Path) -> tuple[Path, bool]:
    """Put a package into a folder under dist/; its path, and whether it was written (not there already, alike).

    A package that is there with a signature in it is alike if all else is.
    """
    source = result.files[str(artifact["name"])]
    path = folder / source.name
    if path.is_file() and (sha256(path) == artifact["sha256"] or _signed_since(artifact, path, source)):
        return path, False
    for suffix in (SBOM_SUFFIX, PROVENANCE_SUFFIX, SIGNATURE_SUFFIX):
        path.with_name(path.name + suffix).unlink(missing_ok=True)  # they are about another file
    write_atomically(path, source.read_bytes())
    return path, True


def _signed_since(artifact: Mapping[str, Any], path: Path, source: Path) -> bool:
    """Whether two packages differ in a signature within the file at most."""
    kind = registry.of(str(artifact["format"]))
    try:
        body = kind.body(path)
        return bool(body) and body == kind.body(source)
    except ForgeError:
        return False


def write_sums(folder: Path, delivered: Mapping[str, str]) -> None:
    """Write SHA256SUMS of a folder: digests by file name, and what it listed before of files that are still there."""
    path = folder / SUMS
    sums: dict[str, str] = {}
    try:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            digest, _, name = line.partition("  ")
            if name and (folder / name).is_file():
                sums[name] = digest
    except FileNotFoundError:
        pass
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error
    sums.update(delivered)
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    if not path.is_file() or path.read_bytes() != text.encode():
        write_atomically(path, text)


class PackageStage(BaseStage):
    """A cell's packages."""

    name = STAGE_NAME
    scope: Scope = "cell"
    reads = frozenset({"source", "allocator", "compile"})

    def needs(self, slot: Slot) -> Needs:
        """Return that it needs the results of all other stages."""
        group = slot.cell.group
        made = (slot.source, slot.image, f"compile:{group}", *slot.allocator)
        return Needs(ids=(*made, f"audit:{group}", f"smoke:{group}", *slot.tools))

    def material(self, node: Node, run: RunContext, *, offline: bool) -> Material:
        """Return what goes in beside the results."""
        return Material(facts=material(run.spec, node.cell, run.home, others=run.others(node.cell)))

    def make(self, inputs: Inputs, run: RunContext, *, key: str) -> Result:
        """Pack it in every format."""
        parts = PackageInputs(
            source=inputs.source,
            image=inputs.image,
            allocator=inputs.allocator,
            compiled=inputs.of("compile"),
            audited=inputs.of("audit"),
            smoked=inputs.of("smoke"),
        )
        cell = inputs.node.cell
        return make(run.workspace, run.spec, cell, parts, key=key, tools=inputs.tools, others=run.others(cell))


STAGE = PackageStage()
