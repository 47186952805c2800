"""The claims of an artifact, its provenance and its SBOM, and whether they agree. Anybody may have written them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pikaforge.attest.provenance import BUILD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE, Statement, StatementKind
from pikaforge.audit.distribution import Distribution, PackagedRecord
from pikaforge.audit.identities import NamedCode
from pikaforge.cpu import microarch
from pikaforge.formats.manifest import Manifest, first_error
from pikaforge.host import json_text
from pikaforge.host.text import size_text

READ_LIMIT = 8 << 20
"""Bytes of a file that describes another one."""
PATCH = "patch "
"""What the name of a patch begins with in a provenance."""


class _SbomPart(BaseModel):
    """Base of what is read of an SBOM, which the CycloneDX library writes; the rest of it is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, defer_build=True)


class _Hash(_SbomPart):
    alg: str
    content: str


class _Component(_SbomPart):
    name: str
    hashes: tuple[_Hash, ...] = ()


class _Metadata(_SbomPart):
    component: _Component


class Bill(_SbomPart):
    """An SBOM, as far as it is checked."""

    form: Literal["CycloneDX"] = Field(alias="bomFormat")
    version: str = Field(alias="specVersion")
    metadata: _Metadata
    components: tuple[_Component, ...] = Field(min_length=1)


class _BuildKind(_SbomPart):
    build_type: str = Field(alias="buildType")


class _PredicateKind(_SbomPart):
    definition: _BuildKind = Field(alias="buildDefinition")


class _ProvenanceKind(StatementKind):
    predicate: _PredicateKind


_T = TypeVar("_T", bound=BaseModel)


class ClaimError(Exception):
    """A file is not what it should be. The text continues a sentence that begins with the file's name."""


def parse(kind: type[_T], text: bytes) -> _T:
    """Read a model of a JSON text.

    Raises:
        ClaimError: it is none.
    """
    try:
        json_text.verify_size(text)
        return kind.model_validate_json(text)
    except json_text.JsonError as error:
        raise ClaimError(f"it cannot be read: {error}") from error
    except ValidationError as error:
        raise ClaimError(f"it cannot be read: {first_error(error)}") from error


def parse_statement(text: bytes) -> Statement:
    """Read a provenance that this tool has written.

    Raises:
        ClaimError: it is none, or one of another build tool.
    """
    kind = parse(StatementKind, text)
    if kind.kind != STATEMENT_TYPE or kind.predicate_type != PREDICATE_TYPE:
        raise ClaimError(f"it is no SLSA provenance: {kind.kind}, {kind.predicate_type}")
    build_type = parse(_ProvenanceKind, text).predicate.definition.build_type
    if build_type != BUILD_TYPE:
        raise ClaimError(f"it is of another kind of build: {build_type}")
    return parse(Statement, text)


def read_bytes(path: Path) -> bytes:
    """Read a small file.

    Raises:
        ClaimError: it is missing, cannot be read, or is larger than `READ_LIMIT`.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(READ_LIMIT + 1)
    except FileNotFoundError as error:
        raise ClaimError(f"there is no {path.name}") from error
    except OSError as error:
        raise ClaimError(f"it cannot be read: {error.strerror}") from error
    if len(data) > READ_LIMIT:
        raise ClaimError(f"it is larger than {size_text(READ_LIMIT)}")
    return data


def distribution(manifest: Manifest, *, below: str = "") -> Distribution | None:
    """Return what a manifest says of the distribution's own libraries; None if it says nothing that can be judged.

    Args:
        manifest: of a package.
        below: the folder that paths shall begin with.
    """
    if manifest.image.baseline not in microarch.known():
        return None
    start = f"{below}/" if below else ""
    return Distribution(
        baseline=manifest.image.baseline,
        libraries={
            start + library.path: PackagedRecord(
                package=library.package, version=library.version, sha256=library.sha256, code=library.code
            )
            for library in manifest.bundled_libraries
            if library.code and f"{library.path}{library.package}{library.version}".isprintable()
        },
    )


def named_code(manifest: Manifest, *, below: str = "") -> tuple[NamedCode, ...]:
    """Return the functions that waivers covered when the package was built; it has no symbols itself.

    Args:
        manifest: of a package.
        below: the folder that paths shall begin with.
    """
    start = f"{below}/" if below else ""
    return tuple(
        NamedCode(file=start + entry.file, build_id=entry.build_id, function=entry.function, code=entry.code)
        for entry in manifest.audit.waived or ()
        if entry.function.isprintable()
    )


def judge_statement(statement: Statement, *, artifact: str, digest: str) -> list[str]:
    """Return what is wrong with a provenance of an artifact; nothing if it is of this file."""
    subjects = {subject.name: subject.sha256 or "" for subject in statement.subject}
    if artifact not in subjects:
        return [f"it is of {', '.join(subjects) or 'nothing'}, not of this file"]
    if subjects[artifact] != digest:
        return [f"it is of a file with SHA-256 {subjects[artifact]}, but this one has {digest}"]
    return []


def judge_bill(bill: Bill, *, digest: str) -> list[str]:
    """Return what is wrong with an SBOM of a file with some SHA-256."""
    found = [item.content for item in bill.metadata.component.hashes if item.alg == "SHA-256"]
    if found != [digest]:
        return [f"it is of a file with SHA-256 {', '.join(found) or '(none)'}, but this one has {digest}"]
    return []


def judge_claims(manifest: Manifest, statement: Statement, *, manifest_sha256: str) -> list[str]:
    """Return where a manifest and a provenance disagree."""
    wrong = []

    def compare(what: str, here: object, there: object) -> None:
        if here != there:
            wrong.append(f"{what} is {here} in the manifest, {there} in the provenance")

    external, internal = statement.definition.external, statement.definition.internal
    commits = {item.name: item.digest or {} for item in statement.definition.dependencies}.get("source", {})
    compare("its own SHA-256", manifest_sha256, internal.manifest.sha256 if internal.manifest is not None else None)
    compare("the cell", manifest.cell, external.cell)
    compare("the target", manifest.target, internal.target)
    compare("the commit", manifest.source.commit, next(iter(commits.values()), None))
    return [*wrong, *_judge_patches(manifest, statement)]


def _judge_patches(manifest: Manifest, statement: Statement) -> list[str]:
    """Return where the patch series of a manifest and of a provenance differ: in names, digests or states."""
    here = [(patch.name, patch.sha256, patch.state or "applied") for patch in manifest.source.patches]
    there = [
        (item.name.removeprefix(PATCH), item.sha256, (item.annotations or {}).get("state", "applied"))
        for item in statement.definition.dependencies
        if item.name.startswith(PATCH)
    ]
    if here == there:
        return []
    names, other_names = ([name for name, _, _ in patches] for patches in (here, there))
    if names != other_names:
        series, other = (", ".join(listed) or "empty" for listed in (names, other_names))
        return [f"the patch series is {series} in the manifest, {other} in the provenance"]
    same_digests = [digest for _, digest, _ in here] == [digest for _, digest, _ in there]
    return [f"patches have other {'states' if same_digests else 'digests'} in the manifest than in the provenance"]
