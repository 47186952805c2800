"""The bill of materials of an artifact: CycloneDX 1.6 in JSON, made from its manifest by the CycloneDX library.

The same manifest and artifact give the same bytes: the serial number is derived from the content, and the timestamp is
that of the source (SOURCE_DATE_EPOCH), as for everything else in the artifact.

In this format `metadata.tools` are the tools that made the bill. So the compiler is a component with scope `excluded`:
it was used for the product, and is not in it.
"""

from __future__ import annotations

import posixpath
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from pikaforge import __version__
from pikaforge.config import families
from pikaforge.config.licences import fault
from pikaforge.formats.manifest import Manifest, ManifestDispatched, ManifestLicence, ManifestPatch, ManifestSource
from pikaforge.host.http import redacted

if TYPE_CHECKING:
    from cyclonedx.model import HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, Patch
    from cyclonedx.model.license import License
    from packageurl import PackageURL

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://pikaforge.invalid/sbom")
PREFIX = "pikaforge:"
"""Of the names of properties that are not CycloneDX's."""


def document(manifest: Manifest, *, artifact: str, sha256: str) -> Bom:
    """Return the bill of one artifact.

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
        name=manifest.product,
        version=manifest.version,
        hashes=_hashes(sha256),
        licenses=_licences(manifest.licence_of(manifest.product)),
        properties=_properties(
            artifact=artifact,
            cell=manifest.cell,
            model=manifest.model,
            target=manifest.target,
            image=manifest.image.name,
            allocator=manifest.allocator.name,
        ),
    )
    source = _source(manifest)
    contained = [source, *_submodules(manifest), *_allocator(manifest), *_libraries(manifest)]
    tools = _compilers(manifest)
    maker = Component(type=ComponentType.APPLICATION, bom_ref="pikaforge", name="pikaforge", version=__version__)
    bom = Bom(
        version=1,
        serial_number=NAMESPACE,
        metadata=BomMetaData(
            component=top,
            timestamp=datetime.fromtimestamp(manifest.source_date_epoch, timezone.utc),
            tools=ToolRepository(components=[maker]),
        ),
        components=[*contained, *tools],
    )
    bom.register_dependency(top, contained)
    bom.serial_number = uuid.uuid5(NAMESPACE, text(bom))
    return bom


def text(bom: Bom) -> str:
    """Return a bill as it is written to its file."""
    from cyclonedx.output.json import JsonV1Dot6  # noqa: PLC0415

    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def _hashes(sha256: str) -> list[HashType]:
    from cyclonedx.model import HashAlgorithm, HashType  # noqa: PLC0415

    return [HashType(alg=HashAlgorithm.SHA_256, content=sha256)]


def _licences(licence: ManifestLicence) -> list[License]:
    """Return licences as CycloneDX has them: one expression, or ids of SPDX and other names."""
    from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression  # noqa: PLC0415
    from cyclonedx.spdx import is_supported_id  # noqa: PLC0415

    names = list(dict.fromkeys(name for name in licence.names if name))
    if len(names) == 1 and not is_supported_id(names[0]) and not fault(names[0]):
        return [LicenseExpression(names[0])]
    return [DisjunctiveLicense(id=name) if is_supported_id(name) else DisjunctiveLicense(name=name) for name in names]


def _files(licence: ManifestLicence) -> str:
    """Return the paths of a licence's texts in the package, for a property."""
    return " ".join(licence.files)


def _properties(**values: object) -> list[Property]:
    from cyclonedx.model import Property  # noqa: PLC0415

    return [Property(name=f"{PREFIX}{name}", value=str(value)) for name, value in values.items() if value]


def _source(manifest: Manifest) -> Component:
    """Return the product's source as it was compiled; its pedigree has what it was before the patches."""
    from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri  # noqa: PLC0415
    from cyclonedx.model.component import Commit, Component, ComponentType, Pedigree  # noqa: PLC0415

    source, name = manifest.source, manifest.product
    url = redacted(source.url)
    references = [ExternalReference(type=ExternalReferenceType.VCS, url=XsUri(url))] if url else []
    is_git = bool(source.head)
    upstream = Component(
        type=ComponentType.APPLICATION,
        bom_ref="upstream",
        name=name,
        version=source.version or manifest.version,
        purl=_generic(name, source.commit, f"git+{url}@{source.commit}" if url and is_git else ""),
        hashes=() if is_git else _hashes(source.commit),
        external_references=references,
        properties=_properties(
            origin=source.kind, ref=source.ref, tag=source.tag, commit=source.commit if is_git else ""
        ),
    )
    return Component(
        type=ComponentType.APPLICATION,
        bom_ref="source",
        name=f"{name}-source",
        version=source.head or source.commit,
        licenses=_licences(manifest.licence_of(name)),
        external_references=references,
        pedigree=Pedigree(
            ancestors=[upstream],
            commits=[Commit(uid=source.commit)] if is_git else [],
            # A pedigree says in what a component differs from its ancestor: what that has already is no patch there.
            patches=[_patch(patch) for patch in source.patches if patch.applied],
            notes=_notes(source),
        ),
        properties=[*_digests(source), *_properties(licence_files=_files(manifest.licence_of(name)))],
    )


def _digests(source: ManifestSource) -> Iterator[Property]:
    """Return digest and state of each patch. The format has no place for them, nor for the order of patches."""
    from cyclonedx.model import Property  # noqa: PLC0415

    for number, patch in enumerate(source.patches, 1):
        title = f"{PREFIX}patch:{number}:{patch.name}"
        yield Property(name=title, value=f"sha256:{patch.sha256}")
        if not patch.applied:
            yield Property(name=f"{title}:state", value=patch.state)


def _patch(patch: ManifestPatch) -> Patch:
    from cyclonedx.model import XsUri  # noqa: PLC0415
    from cyclonedx.model.component import Diff, Patch, PatchClassification  # noqa: PLC0415

    url = redacted(patch.url)
    kind = PatchClassification.CHERRY_PICK if url else PatchClassification.UNOFFICIAL
    return Patch(type=kind, diff=Diff(url=XsUri(url or patch.name)))


def _notes(source: ManifestSource) -> str | None:
    """Return the patches in their order for people; None if there are none."""
    lists = (
        ("applied in this order", [patch.name for patch in source.patches if patch.applied]),
        ("in the ancestor already", [patch.name for patch in source.patches if patch.state == "present"]),
    )
    return "; ".join(f"{title}: {', '.join(names)}" for title, names in lists if names) or None


def _generic(name: str, version: str, vcs_url: str = "") -> PackageURL:
    from packageurl import PackageURL  # noqa: PLC0415

    return PackageURL(type="generic", name=name, version=version, qualifiers={"vcs_url": vcs_url} if vcs_url else {})


def _submodules(manifest: Manifest) -> Iterator[Component]:
    from cyclonedx.model.component import Component, ComponentType  # noqa: PLC0415

    for path, commit in sorted(manifest.source.submodules.items()):
        name = posixpath.basename(path)
        yield Component(
            type=ComponentType.LIBRARY,
            bom_ref=f"submodule:{path}",
            name=name,
            version=commit,
            purl=_generic(name, commit),
            properties=_properties(role="submodule", path=path),
        )


def _allocator(manifest: Manifest) -> Iterator[Component]:
    """Return what was built from tarballs for the allocator.

    The system's allocator is among the bundled libraries, and the C library's is not in the artifact.
    """
    from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri  # noqa: PLC0415
    from cyclonedx.model.component import Component, ComponentType  # noqa: PLC0415

    allocator = manifest.allocator
    for folder, tarball in sorted((allocator.tarballs or {}).items()):
        url = redacted(tarball.url)
        name = posixpath.basename(url).partition(f"-{tarball.version}")[0] or folder
        licence = manifest.licence_of(name, folder)
        yield Component(
            type=ComponentType.LIBRARY,
            bom_ref=f"allocator:{folder}",
            name=name,
            version=tarball.version,
            purl=_generic(name, tarball.version),
            licenses=_licences(licence),
            external_references=[
                ExternalReference(
                    type=ExternalReferenceType.SOURCE_DISTRIBUTION, url=XsUri(url), hashes=_hashes(tarball.sha256)
                )
            ],
            properties=_properties(role="allocator", allocator=allocator.name, licence_files=_files(licence)),
        )


def _libraries(manifest: Manifest) -> Iterator[Component]:
    """Return the libraries of the image's packages that are in the tree."""
    from cyclonedx.model.component import Component, ComponentType  # noqa: PLC0415

    used = manifest.allocator.library
    accepted = {entry.file: entry for entry in manifest.audit.dispatched}
    for library in manifest.bundled_libraries:
        licence = manifest.licence_of(library.package)
        is_allocator = used and used in (library.soname, library.path, posixpath.basename(library.path))
        yield Component(
            type=ComponentType.LIBRARY,
            bom_ref=f"library:{library.path}",
            name=library.soname,
            version=library.version or None,
            purl=_package_url(manifest, library.package, library.version),
            licenses=_licences(licence),
            properties=_properties(
                path=library.path,
                package=library.package,
                role="allocator" if is_allocator else "bundled library",
                licence_files=_files(licence),
                **_dispatch(accepted.get(library.path)),
            ),
        )


def _dispatch(entry: ManifestDispatched | None) -> dict[str, str]:
    """Return the features that a library uses only on CPUs that have them, and the evidence for that."""
    if entry is None:
        return {}
    return {"dispatched_features": " ".join(entry.features), "dispatch_evidence": "; ".join(entry.evidence)}


def _package_url(manifest: Manifest, package: str, version: str) -> PackageURL | None:
    """Return the package that a library is from; None if it is from none."""
    from packageurl import PackageURL  # noqa: PLC0415

    if not package or not version:
        return None
    system = manifest.image.os
    purl = families.of_system(system.id).packages.purl(package, version)
    qualifiers = {"distro": f"{system.id}-{system.version}", **purl.qualifiers}
    return PackageURL(type=purl.type, namespace=system.id, name=purl.name, version=purl.version, qualifiers=qualifiers)


def _compilers(manifest: Manifest) -> Iterator[Component]:
    """Return compiler and linker, by the lines that they print of themselves: compiler, its version, linker."""
    from cyclonedx.model.component import Component, ComponentScope, ComponentType  # noqa: PLC0415

    lines, adaptations = manifest.compiler, manifest.adaptations
    if lines:
        yield Component(
            type=ComponentType.APPLICATION,
            bom_ref="tool:compiler",
            name=lines[0],
            version=lines[1] if len(lines) > 1 else None,
            scope=ComponentScope.EXCLUDED,
            properties=_properties(
                role="compiler",
                flags=" ".join(manifest.flags),
                # What the compiler's version added to the target's flags.
                cflags=" ".join(word for entry in adaptations for word in entry.cflags),
                cxxflags=" ".join(word for entry in adaptations for word in entry.cxxflags),
            ),
        )
    for number, line in enumerate(lines[2:], 1):
        yield Component(
            type=ComponentType.APPLICATION,
            bom_ref=f"tool:{number}",
            name=line,
            version=line.split()[-1],
            scope=ComponentScope.EXCLUDED,
            properties=_properties(role="build tool"),
        )
