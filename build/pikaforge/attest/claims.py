"""What an artifact, its provenance and its SBOM claim, read from files that anybody may have written; and whether the
three agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pikaforge.attest import provenance
from pikaforge.audit.distribution import Distribution, PackagedRecord
from pikaforge.cpu import microarch

READ_LIMIT = 64 << 20
"""Bytes of a file that describes another one."""


class _ForeignModel(BaseModel):
    """Base of what is read of a file that anybody may have written; what a later version adds is let be."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class PatchClaim(_ForeignModel):
    """A patch."""

    name: str
    sha256: str
    state: str = "applied"
    """Packages that were built before this was told hold applied ones only."""


class SourceClaim(_ForeignModel):
    """What was compiled."""

    commit: str
    patches: list[PatchClaim]


class NameClaim(_ForeignModel):
    """Something that is called by its name."""

    name: str


class ImageClaim(NameClaim):
    """The image that it was compiled on."""

    baseline: str = ""


class LibraryClaim(_ForeignModel):
    """A library that travels along."""

    path: str
    package: str
    version: str
    sha256: str = ""
    code: str = ""
    """Of the distribution's own ones only."""


class Claims(_ForeignModel):
    """What a manifest says, as far as it is checked."""

    cell: str
    target: str
    source: SourceClaim
    image: ImageClaim
    allocator: NameClaim
    contents: list[dict[str, str]] | None = None
    bundled_libraries: list[LibraryClaim] = Field(default_factory=list)

    def distribution(self, *, below: str = "") -> Distribution | None:
        """What it says of the distribution's own libraries; None if it says nothing that can be judged.

        Args:
            below: the folder that paths shall begin with.
        """
        if self.image.baseline not in microarch.known():
            return None
        start = f"{below}/" if below else ""
        return Distribution(
            baseline=self.image.baseline,
            libraries={
                start + library.path: PackagedRecord(
                    package=library.package, version=library.version, sha256=library.sha256, code=library.code
                )
                for library in self.bundled_libraries
                if library.code and f"{library.path}{library.package}{library.version}".isprintable()
            },
        )


class DigestClaim(_ForeignModel):
    """A resource descriptor of in-toto."""

    name: str = ""
    digest: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, Any] = Field(default_factory=dict)


class _Definition(_ForeignModel):
    build_type: str = Field(alias="buildType")
    external: dict[str, Any] = Field(alias="externalParameters")
    internal: dict[str, Any] = Field(default_factory=dict, alias="internalParameters")
    dependencies: list[DigestClaim] = Field(default_factory=list, alias="resolvedDependencies")


class _Details(_ForeignModel):
    byproducts: list[DigestClaim] = Field(default_factory=list)


class _Predicate(_ForeignModel):
    definition: _Definition = Field(alias="buildDefinition")
    details: _Details = Field(alias="runDetails")


class Statement(_ForeignModel):
    """A provenance, as far as it is checked."""

    kind: str = Field(alias="_type")
    subject: list[DigestClaim]
    predicate_type: str = Field(alias="predicateType")
    predicate: _Predicate

    @property
    def definition(self) -> _Definition:
        """What was built of what."""
        return self.predicate.definition

    @property
    def debug(self) -> bool:
        """Whether it is of debug information, which has no manifest in it."""
        return self.definition.external.get("contents") == "debug"


class _Hash(_ForeignModel):
    alg: str
    content: str


class _Component(_ForeignModel):
    name: str
    hashes: list[_Hash] = Field(default_factory=list)


class _Metadata(_ForeignModel):
    component: _Component


class Bill(_ForeignModel):
    """An SBOM, as far as it is checked."""

    form: Literal["CycloneDX"] = Field(alias="bomFormat")
    version: str = Field(alias="specVersion")
    metadata: _Metadata
    components: list[_Component] = Field(min_length=1)


_T = TypeVar("_T", bound=_ForeignModel)


class ClaimError(Exception):
    """A file is not what it should be; the text goes on after its name."""


def parse(kind: type[_T], text: bytes) -> _T:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ClaimError(f"it cannot be read: {f'{place}: ' if place else ''}{first['msg']}") from error


def read_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(READ_LIMIT + 1)
    except FileNotFoundError as error:
        raise ClaimError(f"there is no {path.name}") from error
    except OSError as error:
        raise ClaimError(f"it cannot be read: {error.strerror}") from error
    if len(data) > READ_LIMIT:
        raise ClaimError(f"it is larger than {READ_LIMIT >> 20} MiB")
    return data


def judge_statement(statement: Statement, *, artifact: str, digest: str) -> list[str]:
    """What is wrong with a provenance of this file; empty if nothing."""
    if statement.kind != provenance.STATEMENT_TYPE or statement.predicate_type != provenance.PREDICATE_TYPE:
        return [f"it is no SLSA provenance: {statement.kind}, {statement.predicate_type}"]
    if statement.definition.build_type != provenance.BUILD_TYPE:
        return [f"it is of another kind of build: {statement.definition.build_type}"]
    subjects = {subject.name: subject.digest.get("sha256", "") for subject in statement.subject}
    if artifact not in subjects:
        return [f"it is of {', '.join(subjects) or 'nothing'}, not of this file"]
    if subjects[artifact] != digest:
        return [f"it is of a file with SHA-256 {subjects[artifact]}, but this one has {digest}"]
    return []


def judge_bill(bill: Bill, *, digest: str) -> list[str]:
    """What is wrong with an SBOM of this file."""
    told = [item.content for item in bill.metadata.component.hashes if item.alg == "SHA-256"]
    if told != [digest]:
        return [f"it is of a file with SHA-256 {', '.join(told) or '(none)'}, but this one has {digest}"]
    return []


def judge_claims(claims: Claims, statement: Statement, *, manifest_sha256: str) -> list[str]:
    """Where manifest and provenance disagree."""
    wrong = []

    def compare(what: str, here: object, there: object) -> None:
        if here != there:
            wrong.append(f"{what} is {here} in the manifest, {there} in the provenance")

    definition = statement.definition
    digests = {item.name: item.digest for item in definition.dependencies}
    told = definition.internal.get("manifest")
    compare("its own SHA-256", manifest_sha256, told.get("sha256") if isinstance(told, dict) else None)
    compare("the cell", claims.cell, definition.external.get("cell"))
    compare("the target", claims.target, definition.internal.get("target"))
    compare("the commit", claims.source.commit, next(iter(digests.get("source", {}).values()), None))
    patches = [(p.name, p.sha256, p.state) for p in claims.source.patches]
    start = "patch "
    there = [
        (d.name.removeprefix(start), d.digest.get("sha256"), d.annotations.get("state", "applied"))
        for d in definition.dependencies
        if d.name.startswith(start)
    ]
    if patches != there:
        names = [[name for name, _, _ in listed] for listed in (patches, there)]
        digests_ = [[digest for _, digest, _ in listed] for listed in (patches, there)]
        if names[0] == names[1]:
            what = "states" if digests_[0] == digests_[1] else "digests"
            wrong.append(f"patches have other {what} in the manifest than in the provenance")
        else:
            compare("the patch series", ", ".join(names[0]) or "empty", ", ".join(names[1]) or "empty")
    return wrong
