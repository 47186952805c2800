"""Where an artifact comes from: an in-toto Statement v1 with SLSA Provenance v1 as its predicate.

Facts: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md and https://slsa.dev/spec/v1.0/provenance.
The build type (a name, not an address: nothing of ours is on the network) means: from the source, with the patches in
order, on the image, `nox -s build -- CELL` makes the subject. `externalParameters` are what the caller of that chooses,
`internalParameters` what the matrix makes of it, `resolvedDependencies` all that is fetched.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pikaforge import __version__
from pikaforge.host.http import redacted

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://pikaforge.invalid/build-types/cell/v1"
LOCAL_BUILDER = "https://pikaforge.invalid/builders/local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """Who ran the build."""

    id: str = LOCAL_BUILDER
    """A URI; what is trusted when the provenance is."""
    invocation: str = ""
    """URI of this run; empty: not told."""
    started: str = ""
    """RFC 3339, only if the caller wants the statement to differ from run to run."""
    finished: str = ""


def builder_of(environ: Mapping[str, str]) -> Builder:
    """The builder that GitHub Actions' variables tell of; a local one where they are not set.

    The run's URI differs from run to run, so a statement made there is not the same twice.
    """
    names = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_WORKFLOW_REF", "GITHUB_RUN_ID")
    if environ.get("GITHUB_ACTIONS") != "true" or not all(environ.get(name) for name in names):
        return Builder()
    server, repository, workflow, run = (environ[name] for name in names)
    attempt = environ.get("GITHUB_RUN_ATTEMPT", "1")
    return Builder(id=f"{server}/{workflow}", invocation=f"{server}/{repository}/actions/runs/{run}/attempts/{attempt}")


def builder_in(text: str) -> Builder | None:
    """The builder that a statement tells of, as `text` writes it; None if it is none."""
    try:
        details = json.loads(text)["predicate"]["runDetails"]
        metadata = details.get("metadata", {})
        return Builder(
            id=str(details["builder"]["id"]),
            invocation=str(metadata.get("invocationId", "")),
            started=str(metadata.get("startedOn", "")),
            finished=str(metadata.get("finishedOn", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def statement(
    manifest: Mapping[str, Any],
    *,
    artifact: str,
    sha256: str,
    builder: Builder,
    manifest_sha256: str = "",
    byproducts: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The statement on one artifact.

    Args:
        manifest: what the artifact says of itself.
        artifact: its file name.
        sha256: its digest.
        builder: who ran the build.
        manifest_sha256: digest of the manifest.json in it; "" for debug information, which has none.
        byproducts: SHA-256 by name of files that were made with it, such as the SBOM.
    """
    source = manifest["source"]
    made_with = [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted((byproducts or {}).items())]
    metadata = _metadata(builder)
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": artifact, "digest": {"sha256": sha256}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "product": manifest["product"],
                    "version": manifest["version"],
                    "cell": manifest["cell"],
                    "source": {"url": redacted(str(source["url"])), "ref": source["ref"]},
                    "contents": "product" if manifest_sha256 else "debug",
                },
                "internalParameters": _internal(manifest, manifest_sha256),
                "resolvedDependencies": dependencies(manifest),
            },
            "runDetails": {
                "builder": {"id": builder.id, "version": {"pikaforge": __version__}},
                **({"metadata": metadata} if metadata else {}),
                **({"byproducts": made_with} if made_with else {}),
            },
        },
    }


def _internal(manifest: Mapping[str, Any], manifest_sha256: str) -> dict[str, Any]:
    return {
        "target": manifest["target"],
        "wantedTarget": manifest["wanted_target"],
        # Packages of before manifest format 4 were all run as what they are.
        "triedTarget": manifest.get("tried", {}).get("target", manifest["target"]),
        "flags": list(manifest["flags"]),
        "image": manifest["image"]["name"],
        "allocator": manifest["allocator"]["name"],
        "sourceDateEpoch": manifest["source_date_epoch"],
        **({"manifest": {"sha256": manifest_sha256}} if manifest_sha256 else {}),
    }


def _metadata(builder: Builder) -> dict[str, str]:
    told = (
        ("invocationId", builder.invocation),
        ("startedOn", builder.started),
        ("finishedOn", builder.finished),
    )
    return {name: value for name, value in told if value}


def dependencies(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the build fetched, as resource descriptors: source, submodules, patches in order, allocator, image."""
    source = manifest["source"]
    url = redacted(str(source["url"]))
    # A tarball has no head commit; its identity is its own digest.
    kind = "gitCommit" if source["head"] else "sha256"
    origin = {name: source[name] for name in ("kind", "ref", "tag", "version") if source.get(name)}
    found: list[dict[str, Any]] = [
        {
            **_resource("source", _git(url) if source["head"] else url, {kind: source["commit"]}),
            **({"annotations": origin} if "kind" in origin else {}),
        }
    ]
    found += [
        _resource(f"submodule {path}", "", {"gitCommit": commit})
        for path, commit in sorted(source["submodules"].items())
    ]
    found += [
        {
            **_resource(f"patch {patch['name']}", redacted(str(patch["url"])), {"sha256": patch["sha256"]}),
            **({"annotations": {"state": patch["state"]}} if "state" in patch else {}),
        }
        for patch in source["patches"]
    ]
    found += [
        _resource(f"allocator {folder}", redacted(str(tarball["url"])), {"sha256": tarball["sha256"]})
        for folder, tarball in sorted(manifest["allocator"].get("tarballs", {}).items())
    ]
    return [*found, _image(manifest["image"])]


def _git(url: str) -> str:
    return f"git+{url}" if url else ""


def _image(image: Mapping[str, Any]) -> dict[str, Any]:
    """The base image by its registry digest; what was bootstrapped has none, and its packages tell what it was."""
    name, _, digest = str(image["base"]).partition("@")
    algorithm, _, value = digest.partition(":")
    packages = "".join(f"{package}={version}\n" for package, version in sorted(image["build_packages"].items()))
    resource = _resource(f"image {image['name']}", f"oci:{name}" if value else "", {algorithm: value} if value else {})
    return {
        **resource,
        **({} if value else {"uri": f"bootstrap:{name.removeprefix('bootstrap ').replace(' ', '-')}"}),
        "annotations": {"packagesSha256": hashlib.sha256(packages.encode()).hexdigest()},
    }


def _resource(name: str, uri: str, digest: Mapping[str, str]) -> dict[str, Any]:
    return {"name": name, **({"uri": uri} if uri else {}), **({"digest": dict(digest)} if digest else {})}


def text(told: Mapping[str, Any]) -> str:
    """The statement as it is written to its file."""
    return json.dumps(told, indent=2, sort_keys=True) + "\n"
