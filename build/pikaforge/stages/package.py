"""The package stage: a cell's tree with manifest, tools and units, packed; and its place under dist/."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pikaforge import keys
from pikaforge.errors import HostError
from pikaforge.host.job import Input, Job, files
from pikaforge.host.store import Result, sha256, write_atomically
from pikaforge.model import Spec
from pikaforge.plan import Cell
from pikaforge.stages import payload
from pikaforge.workshop import Workshop, guest_digests, run_job

STAGE = "package"
SCRIPTS = ("package.sh",)
ARTIFACT = "package.tar.gz"
SUMS = "SHA256SUMS"
MANIFEST_FORMAT = 2


def file_name(spec: Spec, cell: Cell) -> str:
    """`PRODUCT-VERSION-MODEL.tar.gz`; an allocator that is not the image's default follows the model."""
    product = spec.product
    allocator = "" if cell.allocator == spec.images[cell.image].allocator else f"-{cell.allocator}"
    return f"{product.name}-{product.version}-{cell.model}{allocator}.tar.gz"


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
    return {
        "cell": cell.id,
        "wanted": cell.wanted,
        "cpus": list(spec.hardware[cell.model].cpus),
        "payload": {name: keys.digest(data) for name, data in _payload(spec, cell, others).contents.items()},
        "scripts": guest_digests(home, SCRIPTS),
        "manifest": MANIFEST_FORMAT,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The results that a package is made of."""

    source: Result
    image: Result
    compiled: Result
    audited: Result
    smoked: Result
    allocator: Result | None = None
    """Of the gperftools that was built, if any."""


def _memory(spec: Spec, cell: Cell, parts: Parts) -> dict[str, Any]:
    """The allocator as the manifest tells it: what was asked for, what was built, and what the audit found in use."""
    entry = spec.allocators[cell.allocator]
    told: dict[str, Any] = {"name": cell.allocator, "kind": entry.kind, **parts.audited.facts["allocator"]}
    if parts.allocator is not None:
        facts = parts.allocator.facts
        told |= {"version": facts["version"], "tarballs": facts["tarballs"], "built": facts["unwinder"]}
    return told


def manifest(spec: Spec, cell: Cell, parts: Parts) -> dict[str, Any]:
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
            "build_packages": dict(packages["build"]),
            "runtime_packages": dict(packages.get("runtime", [])),
        },
        "source": {name: source.facts[name] for name in ("url", "ref", "commit", "head", "patches", "submodules")},
        "source_date_epoch": source.facts["epoch"],
        "compiler": compiled.facts["compiler"],
        "dropped_flags": compiled.facts["dropped"],
        "bundled_libraries": compiled.facts["bundled"],
        "audit": {
            name: audited.facts[name]
            for name in ("allow_list", "features_used", "kernel_flags", "symbol_versions", "system_libraries")
        },
        "checks": [check["name"] for check in parts.smoked.facts["checks"]],
    }


def run(
    workshop: Workshop,
    spec: Spec,
    cell: Cell,
    parts: Parts,
    *,
    key: str,
    tools: str,
    others: Offers,
) -> Result:
    """Pack one cell; the result has the file `package.tar.gz`."""
    described = manifest(spec, cell, parts)
    rendered = _payload(spec, cell, others, parts.audited.facts["kernel_flags"])
    contents: dict[str, bytes | Path] = {
        **rendered.contents,
        "manifest.json": (json.dumps(described, indent=2, sort_keys=True) + "\n").encode(),
    }
    with workshop.store.scratch() as scratch:
        job = Job(
            label=f"{STAGE}-{cell.id}",
            image=tools,
            argv=("sh", "guest/run.sh", "package"),
            env={"FORGE_PRODUCT": spec.product.name, "SOURCE_DATE_EPOCH": str(parts.source.facts["epoch"])},
            inputs=(
                workshop.guest(*SCRIPTS),
                Input(folder="tree", archive=parts.compiled.files["tree.tar"]),
                Input(folder="extra", archive=files(contents, executable=rendered.executable)),
            ),
            outputs=(f"out/{ARTIFACT}",),
            log=workshop.log_path(cell.id, STAGE),
        )
        done = run_job(workshop, job, scratch, stage=STAGE, label=cell.id, failed="the package could not be made")
        archive = done.outputs[f"out/{ARTIFACT}"]
        return workshop.store.put(
            STAGE,
            key,
            identity=sha256(archive),
            facts={"name": file_name(spec, cell), "bytes": archive.stat().st_size, "manifest": described},
            files={ARTIFACT: archive},
        )


def deliver(result: Result, folder: Path) -> tuple[Path, bool]:
    """Put a package into a folder under dist/; its path, and whether it was written (not there already, alike)."""
    path = folder / str(result.facts["name"])
    if path.is_file() and sha256(path) == result.identity:
        return path, False
    write_atomically(path, result.files[ARTIFACT].read_bytes())
    return path, True


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
