"""Where an artifact comes from: an in-toto Statement v1 with SLSA Provenance v1 as its predicate.

Facts: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md and https://slsa.dev/spec/v1.0/provenance.
The build type (a name, not an address: nothing of ours is on the network) means: from the source, with the patches in
order, on the image, `nox -s build -- CELL` makes the subject. `externalParameters` are what the caller of that chooses,
`internalParameters` what the matrix makes of it, `resolvedDependencies` all that is fetched.

One class writes a statement and reads it again; what other builders add to one is ignored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from pikaforge import __version__
from pikaforge.formats.manifest import Manifest, ManifestImage
from pikaforge.host.http import redacted

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://pikaforge.invalid/build-types/cell/v1"
LOCAL_BUILDER = "https://pikaforge.invalid/builders/local"


class _StatementPart(BaseModel):
    """Base of the statement and its parts. Anybody may have written a statement that is read."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, populate_by_name=True, defer_build=True)


class Resource(_StatementPart):
    """A resource descriptor: a file, a commit, an image."""

    name: str = ""
    uri: str | None = None
    digest: dict[str, str] | None = None
    """By algorithm."""
    annotations: dict[str, JsonValue] | None = None

    @property
    def sha256(self) -> str | None:
        """The SHA-256, if it has one."""
        return (self.digest or {}).get("sha256")


class SourceParameters(_StatementPart):
    """The source that was asked for."""

    url: str
    ref: str


class ExternalParameters(_StatementPart):
    """What the caller of the build chooses."""

    product: str | None = None
    version: str | None = None
    cell: str | None = None
    source: SourceParameters | None = None
    contents: str | None = None
    """`product`, or `debug` for debug information, which has no manifest in it."""


class ManifestDigest(_StatementPart):
    """The digest of the manifest in the artifact."""

    sha256: str


class InternalParameters(_StatementPart):
    """What the matrix makes of it."""

    target: str | None = None
    wanted_target: str | None = Field(default=None, alias="wantedTarget")
    tried_target: str | None = Field(default=None, alias="triedTarget")
    flags: tuple[str, ...] | None = None
    image: str | None = None
    allocator: str | None = None
    source_date_epoch: int | None = Field(default=None, alias="sourceDateEpoch")
    compiler_caches: dict[str, str] | None = Field(default=None, alias="compilerCaches")
    """The compiler cache of each compilation, by stage: `none`, or `sha256:…` of the sources that it belongs to."""
    shared_results: dict[str, str] | None = Field(default=None, alias="sharedResults")
    """The shared store that a result was taken from, by stage: another machine has made it."""
    manifest: ManifestDigest | None = None
    """None for debug information."""


class BuildDefinition(_StatementPart):
    """What was built, and from what."""

    build_type: str = Field(alias="buildType")
    external: ExternalParameters = Field(alias="externalParameters")
    internal: InternalParameters = Field(default=InternalParameters.model_construct(), alias="internalParameters")
    dependencies: tuple[Resource, ...] = Field(default=(), alias="resolvedDependencies")


class BuilderId(_StatementPart):
    """The builder."""

    id: str
    version: dict[str, str] | None = None


class BuildMetadata(_StatementPart):
    """The run of the builder."""

    invocation: str | None = Field(default=None, alias="invocationId")
    started: str | None = Field(default=None, alias="startedOn")
    finished: str | None = Field(default=None, alias="finishedOn")


class RunDetails(_StatementPart):
    """Who built it, and what came out beside it."""

    builder: BuilderId | None = None
    metadata: BuildMetadata | None = None
    byproducts: tuple[Resource, ...] | None = None


class Predicate(_StatementPart):
    """The provenance."""

    definition: BuildDefinition = Field(alias="buildDefinition")
    details: RunDetails = Field(alias="runDetails")


class StatementKind(_StatementPart):
    """The part of any statement that says what it is."""

    kind: str = Field(alias="_type")
    predicate_type: str = Field(alias="predicateType")


class Statement(StatementKind):
    """The statement on an artifact."""

    subject: tuple[Resource, ...]
    predicate: Predicate

    @property
    def definition(self) -> BuildDefinition:
        """What was built, and from what."""
        return self.predicate.definition

    @property
    def debug(self) -> bool:
        """Whether it is of debug information, which has no manifest in it."""
        return self.definition.external.contents == "debug"

    def text(self) -> str:
        """Return it as it is written to its file."""
        return (
            json.dumps(self.model_dump(mode="json", by_alias=True, exclude_none=True), indent=2, sort_keys=True) + "\n"
        )


class Builder(_StatementPart):
    """Who ran the build."""

    id: str = LOCAL_BUILDER
    """A URI; what is trusted when the provenance is."""
    invocation: str = ""
    """URI of this run; empty if it is not to be named."""
    started: str = ""
    """RFC 3339, only if the caller wants the statement to differ from run to run."""
    finished: str = ""
    compiler_caches: dict[str, str] = Field(default_factory=dict)
    """See `InternalParameters`; empty if it is not known."""
    shared_results: dict[str, str] = Field(default_factory=dict)
    """See `InternalParameters`; empty if everything was made here."""


def builder_of(environ: Mapping[str, str]) -> Builder:
    """Return the builder that GitHub Actions' variables name; a local one where they are not set.

    The run's URI differs from run to run, so a statement made there is not the same twice.
    """
    names = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_WORKFLOW_REF", "GITHUB_RUN_ID")
    if environ.get("GITHUB_ACTIONS") != "true" or not all(environ.get(name) for name in names):
        return Builder()
    server, repository, workflow, run = (environ[name] for name in names)
    attempt = environ.get("GITHUB_RUN_ATTEMPT", "1")
    return Builder(id=f"{server}/{workflow}", invocation=f"{server}/{repository}/actions/runs/{run}/attempts/{attempt}")


class _Caches(_StatementPart):
    compiler_caches: dict[str, str] | None = Field(default=None, alias="compilerCaches")
    shared_results: dict[str, str] | None = Field(default=None, alias="sharedResults")


class _RunDefinition(_StatementPart):
    internal: _Caches = Field(default=_Caches.model_construct(), alias="internalParameters")


class _RunPredicate(_StatementPart):
    definition: _RunDefinition = Field(default=_RunDefinition.model_construct(), alias="buildDefinition")
    details: RunDetails = Field(alias="runDetails")


class _RunStatement(_StatementPart):
    predicate: _RunPredicate


def builder_in(text: str) -> Builder | None:
    """Return the builder that a statement names; None if the text is no statement, or names none."""
    try:
        predicate = _RunStatement.model_validate_json(text).predicate
    except ValidationError:
        return None
    details = predicate.details
    if details.builder is None:
        return None
    run = details.metadata or BuildMetadata()
    return Builder(
        id=details.builder.id,
        invocation=run.invocation or "",
        started=run.started or "",
        finished=run.finished or "",
        compiler_caches=predicate.definition.internal.compiler_caches or {},
        shared_results=predicate.definition.internal.shared_results or {},
    )


def statement(
    manifest: Manifest,
    *,
    artifact: str,
    sha256: str,
    builder: Builder,
    manifest_sha256: str = "",
    byproducts: Mapping[str, str] | None = None,
) -> Statement:
    """Return the statement on one artifact.

    Args:
        manifest: what the artifact says of itself.
        artifact: its file name.
        sha256: its digest.
        builder: who ran the build.
        manifest_sha256: digest of the manifest.json in it; empty for debug information, which has none.
        byproducts: SHA-256 by name of files that were made with it, such as the SBOM.
    """
    made_with = tuple(_resource(name, "", {"sha256": digest}) for name, digest in sorted((byproducts or {}).items()))
    source = manifest.source
    return Statement(
        kind=STATEMENT_TYPE,
        subject=(_resource(artifact, "", {"sha256": sha256}),),
        predicate_type=PREDICATE_TYPE,
        predicate=Predicate(
            definition=BuildDefinition(
                build_type=BUILD_TYPE,
                external=ExternalParameters(
                    product=manifest.product,
                    version=manifest.version,
                    cell=manifest.cell,
                    source=SourceParameters(url=redacted(source.url), ref=source.ref),
                    contents="product" if manifest_sha256 else "debug",
                ),
                internal=_internal(manifest, manifest_sha256, builder),
                dependencies=dependencies(manifest),
            ),
            details=RunDetails(
                builder=BuilderId(id=builder.id, version={"pikaforge": __version__}),
                metadata=_metadata(builder),
                byproducts=made_with or None,
            ),
        ),
    )


def _internal(manifest: Manifest, manifest_sha256: str, builder: Builder) -> InternalParameters:
    return InternalParameters(
        target=manifest.target,
        wanted_target=manifest.wanted_target,
        # Packages of before manifest format 4 were all run as what they are.
        tried_target=manifest.tried.target if manifest.tried is not None else manifest.target,
        flags=manifest.flags,
        compiler_caches=builder.compiler_caches or None,
        shared_results=builder.shared_results or None,
        image=manifest.image.name,
        allocator=manifest.allocator.name,
        source_date_epoch=manifest.source_date_epoch,
        manifest=ManifestDigest(sha256=manifest_sha256) if manifest_sha256 else None,
    )


def _metadata(builder: Builder) -> BuildMetadata | None:
    """Return what is known of the run; None if nothing is."""
    if not (builder.invocation or builder.started or builder.finished):
        return None
    return BuildMetadata(
        invocation=builder.invocation or None, started=builder.started or None, finished=builder.finished or None
    )


def dependencies(manifest: Manifest) -> tuple[Resource, ...]:
    """Return what the build fetched: source, submodules, patches in order, tarballs of the allocator, image."""
    source = manifest.source
    url = redacted(source.url)
    # A tarball has no head commit; its identity is its own digest.
    kind = "gitCommit" if source.head else "sha256"
    origin = {"kind": source.kind, "ref": source.ref, "tag": source.tag, "version": source.version}
    tarballs = manifest.allocator.tarballs or {}
    return (
        _resource(
            "source",
            f"git+{url}" if url and source.head else url,
            {kind: source.commit},
            {name: value for name, value in origin.items() if value} if source.kind else {},
        ),
        *(
            _resource(f"submodule {path}", "", {"gitCommit": commit})
            for path, commit in sorted(source.submodules.items())
        ),
        *(
            _resource(
                f"patch {patch.name}",
                redacted(patch.url),
                {"sha256": patch.sha256},
                {"state": patch.state} if patch.state is not None else {},
            )
            for patch in source.patches
        ),
        *(
            _resource(f"allocator {folder}", redacted(tarball.url), {"sha256": tarball.sha256})
            for folder, tarball in sorted(tarballs.items())
        ),
        _image(manifest.image),
    )


def _image(image: ManifestImage) -> Resource:
    """Return the base image, by its registry digest. One that was bootstrapped has none: its packages identify it."""
    name, _, digest = image.base.partition("@")
    algorithm, _, value = digest.partition(":")
    packages = "".join(f"{package}={version}\n" for package, version in sorted(image.build_packages.items()))
    bootstrap = f"bootstrap:{name.removeprefix('bootstrap ').replace(' ', '-')}"
    return _resource(
        f"image {image.name}",
        f"oci:{name}" if value else bootstrap,
        {algorithm: value} if value else {},
        {"packagesSha256": hashlib.sha256(packages.encode()).hexdigest()},
    )


def _resource(name: str, uri: str, digest: Mapping[str, str], annotations: Mapping[str, str] | None = None) -> Resource:
    """Return a descriptor; what is empty is left out of it."""
    return Resource(
        name=name,
        uri=uri or None,
        digest=dict(digest) or None,
        annotations={**annotations} if annotations else None,
    )
