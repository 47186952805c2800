"""What is told of an artifact beside it: its contents, a bill of materials, and where it comes from.

Beside an artifact `X` there are `X.sbom.json` (CycloneDX), `X.intoto.json` (in-toto statement with SLSA provenance)
and, once it is signed, `X.asc`. Everything here is decided by the artifact and its manifest: no clock, no host.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pikaforge.attest import provenance, sbom
from pikaforge.attest.contents import MANIFEST, read_package
from pikaforge.attest.provenance import Builder
from pikaforge.errors import AuditError
from pikaforge.host.store import sha256, write_atomically

SBOM_SUFFIX = ".sbom.json"
PROVENANCE_SUFFIX = ".intoto.json"
SIGNATURE_SUFFIX = ".asc"
SUMS = "SHA256SUMS"
"""Digests of all files of a folder but itself and the signatures, which prove themselves."""


def describe(artifact: Path, *, builder: Builder, manifest: Mapping[str, Any] | None = None) -> tuple[Path, ...]:
    """Write SBOM and provenance beside an artifact, unless they are there as they should be; their paths.

    Args:
        artifact: with the signature inside it, if it gets one: that changes the file.
        builder: who has built it.
        manifest: of an artifact that holds none, because it has debug information only; else its own is taken, so
            that nothing can be told of an artifact that it does not say itself.

    Raises:
        AuditError: the artifact cannot be read, or holds no manifest and none is given.
    """
    package = read_package(artifact)
    told = manifest
    if package.manifest is not None:
        try:
            told = json.loads(package.manifest)
        except (ValueError, RecursionError) as error:
            raise AuditError(f"its {MANIFEST} is no JSON: {error}", where=str(artifact)) from error
    if told is None:
        raise AuditError(f"there is no {MANIFEST} in it", where=str(artifact), hint="pack it with its manifest")
    digest = sha256(artifact)
    bill = sbom.text(sbom.document(told, artifact=artifact.name, sha256=digest))
    bill_path = artifact.with_name(artifact.name + SBOM_SUFFIX)
    _write(bill_path, bill)
    statement = provenance.statement(
        told,
        artifact=artifact.name,
        sha256=digest,
        builder=builder,
        manifest_sha256=package.manifest_sha256,
        byproducts={bill_path.name: sha256(bill_path)},
    )
    statement_path = artifact.with_name(artifact.name + PROVENANCE_SUFFIX)
    _write(statement_path, provenance.text(statement))
    return bill_path, statement_path


def _write(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)
