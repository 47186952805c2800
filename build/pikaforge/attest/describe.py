"""Description of an artifact: bill of materials and provenance, in files beside it.

Beside an artifact `X` there are `X.sbom.json` (CycloneDX), `X.intoto.json` (in-toto statement with SLSA provenance)
and, once it is signed, `X.asc`. Artifact and manifest decide what is in the first two; no clock and no host does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pikaforge.attest import provenance, sbom
from pikaforge.attest.contents import read_package
from pikaforge.attest.provenance import Builder
from pikaforge.errors import AuditError
from pikaforge.formats.manifest import MANIFEST, read_manifest
from pikaforge.host.durable import write_changed
from pikaforge.host.store import sha256

SBOM_SUFFIX = ".sbom.json"
PROVENANCE_SUFFIX = ".intoto.json"
SIGNATURE_SUFFIX = ".asc"
SUMS = "SHA256SUMS"
"""The file with the digests of all other files of a folder but the signatures, which need none."""


def describe(artifact: Path, *, builder: Builder, manifest: Mapping[str, object] | None = None) -> tuple[Path, ...]:
    """Write SBOM and provenance beside an artifact, unless they are there as they should be. Return their paths.

    Args:
        artifact: with the signature inside it, if it gets one: that changes the file.
        builder: who has built it.
        manifest: of an artifact that holds none, because it has debug information only, as JSON has it; else its own
            counts, so that the description never says what the artifact does not say itself.

    Raises:
        AuditError: the artifact cannot be read, or holds no manifest and none is given.
    """
    package = read_package(artifact)
    content = package.manifest if package.manifest is not None else manifest
    if content is None:
        raise AuditError(f"there is no {MANIFEST} in it", where=str(artifact), hint="pack it with its manifest")
    claimed = read_manifest(content, where=str(artifact))
    digest = sha256(artifact)
    bill_path = artifact.with_name(artifact.name + SBOM_SUFFIX)
    write_changed(bill_path, sbom.text(sbom.document(claimed, artifact=artifact.name, sha256=digest)))
    statement = provenance.statement(
        claimed,
        artifact=artifact.name,
        sha256=digest,
        builder=builder,
        manifest_sha256=package.manifest_sha256,
        byproducts={bill_path.name: sha256(bill_path)},
    )
    statement_path = artifact.with_name(artifact.name + PROVENANCE_SUFFIX)
    write_changed(statement_path, statement.text())
    return bill_path, statement_path


def sums_text(digests: Iterable[tuple[str, str]]) -> str:
    """Return the text of a folder's SHA256SUMS, as `sha256sum` writes it, from names and digests."""
    return "".join([f"{sha256}  {name}\n" for name, sha256 in sorted(digests)])
