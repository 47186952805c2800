"""The bill of materials of an artifact: CycloneDX 1.6 in JSON, made from its manifest by the CycloneDX library.

The same manifest and artifact give the same bytes: the serial number is derived from the content, and the timestamp is
that of the source (SOURCE_DATE_EPOCH), as for everything else in the artifact.

What a compiler is in this format: `metadata.tools` are those that made the bill, so the compiler is a component with
scope `excluded`: it was used for the product, and is not in it.
"""

from __future__ import annotations

import posixpath
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pikaforge import __version__
from pikaforge.config import families
from pikaforge.host.http import redacted

if TYPE_CHECKING:
    from cyclonedx.model import HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, Patch
    from packageurl import PackageURL

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://pikaforge.invalid/sbom")
PREFIX = "pikaforge:"
"""Of our properties' names."""


def document(manifest: Mapping[str, Any], *, artifact: str, sha256: str) -> Bom:
    """The bill of one artifact.

    Args:
        manifest: what the artifact says of itself.
        artifact: its file name.
        sha256: its digest.
    """
    from cyclonedx.model.bom import Bom, BomMetaData  # noqa: PLC0415  # 0.2 s that nothing else needs
    from cyclonedx.model.component import Component, ComponentType  # noqa: PLC0415
    from cyclonedx.model.tool import ToolRepository  # noqa: PLC0415

    top = Component(
        type=ComponentType.APPLICATION,
        bom_ref="artifact",
        name=manifest["product"],
        version=manifest["version"],
        hashes=_hashes(sha256),
        properties=_properties(
            artifact=artifact,
            cell=manifest["cell"],
            model=manifest["model"],
            target=manifest["target"],
            image=manifest["image"]["name"],
            allocator=manifest["allocator"]["name"],
        ),
    )
    source = _source(manifest)
    parts = [source, *_submodules(manifest), *_allocator(manifest), *_libraries(manifest)]
    tools = _compilers(manifest)
    maker = Component(type=ComponentType.APPLICATION, bom_ref="pikaforge", name="pikaforge", version=__version__)
    bom = Bom(
        version=1,
        serial_number=NAMESPACE,
        metadata=BomMetaData(
            component=top,
            timestamp=datetime.fromtimestamp(int(manifest["source_date_epoch"]), timezone.utc),
            tools=ToolRepository(components=[maker]),
        ),
        components=[*parts, *tools],
    )
    bom.register_dependency(top, parts)
    bom.serial_number = uuid.uuid5(NAMESPACE, text(bom))
    return bom


def text(bom: Bom) -> str:
    """The bill as it is written to its file."""
    from cyclonedx.output.json import JsonV1Dot6  # noqa: PLC0415

    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def _hashes(sha256: str) -> list[HashType]:
    from cyclonedx.model import HashAlgorithm, HashType  # noqa: PLC0415

    return [HashType(alg=HashAlgorithm.SHA_256, content=sha256)]


def _properties(**values: object) -> list[Property]:
    from cyclonedx.model import Property  # noqa: PLC0415

    return [Property(name=f"{PREFIX}{name}", value=str(value)) for name, value in values.items() if value]


def _source(manifest: Mapping[str, Any]) -> Component:
    """The product's own source as it was compiled; the pedigree tells what it was before the patches."""
    from cyclonedx.model import ExternalReference, ExternalReferenceType, Property, XsUri  # noqa: PLC0415
    from cyclonedx.model.component import Commit, Component, ComponentType, Pedigree  # noqa: PLC0415

    source = manifest["source"]
    url = redacted(str(source["url"]))
    references = [ExternalReference(type=ExternalReferenceType.VCS, url=XsUri(url))] if url else []
    commit, name = str(source["commit"]), str(manifest["product"])
    is_git = bool(source["head"])
    upstream = Component(
        type=ComponentType.APPLICATION,
        bom_ref="upstream",
        name=name,
        version=str(source.get("version") or manifest["version"]),
        purl=_generic(name, commit, f"git+{url}@{commit}" if url and is_git else ""),
        hashes=() if is_git else _hashes(commit),
        external_references=references,
        properties=_properties(
            origin=source.get("kind"), ref=source["ref"], tag=source.get("tag"), commit=commit if is_git else ""
        ),
    )
    # A pedigree tells in what a component differs from its ancestor: what that has already is no patch there.
    patches = [_patch(patch) for patch in source["patches"] if state_of(patch) == "applied"]
    digests = []
    for number, patch in enumerate(source["patches"], 1):
        # The format has no place for a patch's digest; the number keeps their order, which the format does not.
        title = f"{PREFIX}patch:{number}:{patch['name']}"
        digests.append(Property(name=title, value=f"sha256:{patch['sha256']}"))
        if state_of(patch) != "applied":
            digests.append(Property(name=f"{title}:state", value=state_of(patch)))
    return Component(
        type=ComponentType.APPLICATION,
        bom_ref="source",
        name=f"{name}-source",
        version=source["head"] or commit,
        external_references=references,
        pedigree=Pedigree(
            ancestors=[upstream], commits=[Commit(uid=commit)] if is_git else [], patches=patches, notes=_notes(source)
        ),
        properties=digests,
    )


def _patch(patch: Mapping[str, Any]) -> Patch:
    from cyclonedx.model import XsUri  # noqa: PLC0415
    from cyclonedx.model.component import Diff, Patch, PatchClassification  # noqa: PLC0415

    url = redacted(str(patch["url"]))
    kind = PatchClassification.CHERRY_PICK if url else PatchClassification.UNOFFICIAL
    return Patch(type=kind, diff=Diff(url=XsUri(url or str(patch["name"]))))


def _notes(source: Mapping[str, Any]) -> str | None:
    told = []
    for state, words in (("applied", "applied in this order"), ("present", "in the ancestor already")):
        names = [str(patch["name"]) for patch in source["patches"] if state_of(patch) == state]
        told += [f"{words}: {', '.join(names)}"] if names else []
    return "; ".join(told) or None


def state_of(patch: Mapping[str, Any]) -> str:
    """Return the state of a patch: `applied` or `present`. Manifests before format 4 list applied ones only."""
    return str(patch.get("state", "applied"))


def _generic(name: str, version: str, vcs_url: str = "") -> PackageURL:
    from packageurl import PackageURL  # noqa: PLC0415

    return PackageURL(type="generic", name=name, version=version, qualifiers={"vcs_url": vcs_url} if vcs_url else {})


def _submodules(manifest: Mapping[str, Any]) -> Iterator[Component]:
    from cyclonedx.model.component import Component, ComponentType  # noqa: PLC0415

    for path, commit in sorted(manifest["source"]["submodules"].items()):
        name = posixpath.basename(path)
        yield Component(
            type=ComponentType.LIBRARY,
            bom_ref=f"submodule:{path}",
            name=name,
            version=commit,
            purl=_generic(name, commit),
            properties=_properties(role="submodule", path=path),
        )


def _allocator(manifest: Mapping[str, Any]) -> Iterator[Component]:
    """What was built from tarballs for it; the system's is among the bundled libraries, and the C library's outside."""
    from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri  # noqa: PLC0415
    from cyclonedx.model.component import Component, ComponentType  # noqa: PLC0415

    allocator = manifest["allocator"]
    for folder, tarball in sorted(allocator.get("tarballs", {}).items()):
        url = redacted(str(tarball["url"]))
        name = posixpath.basename(url).partition(f"-{tarball['version']}")[0] or str(folder)
        yield Component(
            type=ComponentType.LIBRARY,
            bom_ref=f"allocator:{folder}",
            name=name,
            version=tarball["version"],
            purl=_generic(name, str(tarball["version"])),
            external_references=[
                ExternalReference(
                    type=ExternalReferenceType.SOURCE_DISTRIBUTION, url=XsUri(url), hashes=_hashes(tarball["sha256"])
                )
            ],
            properties=_properties(role="allocator", allocator=allocator["name"]),
        )


def _libraries(manifest: Mapping[str, Any]) -> Iterator[Component]:
    """Libraries of the image's packages that travel along."""
    from cyclonedx.model.component import Component, ComponentType  # noqa: PLC0415

    used = str(manifest["allocator"].get("library") or "")
    accepted = {entry["file"]: entry for entry in manifest["audit"].get("dispatched", ())}
    for library in manifest["bundled_libraries"]:
        is_allocator = used and used in (library["soname"], library["path"], posixpath.basename(library["path"]))
        yield Component(
            type=ComponentType.LIBRARY,
            bom_ref=f"library:{library['path']}",
            name=library["soname"],
            version=library["version"] or None,
            purl=_package_url(manifest, str(library["package"]), str(library["version"])),
            properties=_properties(
                path=library["path"],
                package=library["package"],
                role="allocator" if is_allocator else "bundled library",
                **_dispatch(accepted.get(library["path"], {})),
            ),
        )


def _dispatch(entry: Mapping[str, Any]) -> dict[str, str]:
    """What a library needs of the CPU only where that has it, and what makes sure of it."""
    return {
        "dispatched_features": " ".join(entry.get("features", ())),
        "dispatch_evidence": "; ".join(entry.get("evidence", ())),
    }


def _package_url(manifest: Mapping[str, Any], package: str, version: str) -> PackageURL | None:
    """Return the package that a library is from; as an RPM where nothing is known of the system."""
    from packageurl import PackageURL  # noqa: PLC0415

    if not package or not version:
        return None
    system = manifest["image"]["os"]
    purl = families.of_system(str(system["id"])).packages.purl(package, version)
    qualifiers = {"distro": f"{system['id']}-{system['version']}", **purl.qualifiers}
    return PackageURL(
        type=purl.type, namespace=system["id"], name=purl.name, version=purl.version, qualifiers=qualifiers
    )


def _added(manifest: Mapping[str, Any], name: str) -> list[str]:
    """What the compiler's version added to the target's flags, for C or C++."""
    return [str(word) for entry in manifest.get("adaptations", ()) for word in entry[name]]


def _compilers(manifest: Mapping[str, Any]) -> Iterator[Component]:
    """The lines that compiler and linker print of themselves: compiler, its version, linker."""
    from cyclonedx.model.component import Component, ComponentScope, ComponentType  # noqa: PLC0415

    told = [str(line) for line in manifest["compiler"]]
    if told:
        yield Component(
            type=ComponentType.APPLICATION,
            bom_ref="tool:compiler",
            name=told[0],
            version=told[1] if len(told) > 1 else None,
            scope=ComponentScope.EXCLUDED,
            properties=_properties(
                role="compiler",
                flags=" ".join(manifest["flags"]),
                **{name: " ".join(_added(manifest, name)) for name in ("cflags", "cxxflags")},
            ),
        )
    for number, line in enumerate(told[2:], 1):
        yield Component(
            type=ComponentType.APPLICATION,
            bom_ref=f"tool:{number}",
            name=line,
            version=line.split()[-1],
            scope=ComponentScope.EXCLUDED,
            properties=_properties(role="build tool"),
        )
