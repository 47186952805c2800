"""The provenance: an in-toto statement with SLSA's predicate, decided by manifest and artifact."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from unit.artifacts import NAME, TREE, claimed, deliver, listed, make_manifest, manifest_bytes, pack, tar_bytes

from pikaforge.attest import provenance
from pikaforge.attest.describe import describe
from pikaforge.attest.provenance import Builder, Statement, builder_in, builder_of
from pikaforge.errors import AuditError

DIGEST = "a" * 64
ACTIONS = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://forge.example",
    "GITHUB_REPOSITORY": "me/house",
    "GITHUB_WORKFLOW_REF": "me/house/.github/workflows/build.yml@refs/tags/v1",
    "GITHUB_RUN_ID": "42",
    "GITHUB_RUN_ATTEMPT": "2",
    "GITHUB_TOKEN": "CANARY",
}


def told(builder: Builder | None = None, manifest_sha256: str = "e" * 64, **changes: Any) -> dict[str, Any]:
    """A statement, as it is written."""
    statement = provenance.statement(
        claimed(**changes),
        artifact=NAME,
        sha256=DIGEST,
        builder=builder or Builder(),
        manifest_sha256=manifest_sha256,
        byproducts={f"{NAME}.sbom.json": "5" * 64},
    )
    found: dict[str, Any] = json.loads(statement.text())
    return found


def dependencies(**changes: Any) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in told(**changes)["predicate"]["buildDefinition"]["resolvedDependencies"]}


def test_the_statement() -> None:
    statement = told()
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["subject"] == [{"name": NAME, "digest": {"sha256": DIGEST}}]
    definition, details = (statement["predicate"][name] for name in ("buildDefinition", "runDetails"))
    assert definition["buildType"] == "https://pikaforge.invalid/build-types/cell/v1"
    assert definition["externalParameters"] == {
        "product": "demo",
        "version": "v1.0",
        "cell": "R620-debian12-none",
        "source": {"url": "https://example.org/demo.git", "ref": "v1.0"},
        "contents": "product",
    }
    assert definition["internalParameters"]["target"] == "sandybridge"
    assert definition["internalParameters"]["manifest"] == {"sha256": "e" * 64}
    assert details["builder"]["id"] == "https://pikaforge.invalid/builders/local"
    assert details["byproducts"] == [{"name": f"{NAME}.sbom.json", "digest": {"sha256": "5" * 64}}]
    assert "metadata" not in details, "no clock, no run"


def test_what_was_fetched() -> None:
    found = dependencies()
    assert list(found) == [
        "source", "submodule third/blue", "submodule third/pink", "patch pull-9", "patch local", "image debian12",
    ]  # fmt: skip
    assert found["source"]["uri"] == "git+https://example.org/demo.git"
    assert found["source"]["digest"] == {"gitCommit": "c" * 40}
    assert found["submodule third/pink"]["digest"] == {"gitCommit": "e" * 40}
    assert found["patch pull-9"]["digest"] == {"sha256": "9" * 64}
    assert found["patch pull-9"]["uri"] == "https://example.org/9.patch"
    assert "uri" not in found["patch local"]
    assert found["image debian12"]["uri"] == "oci:debian"
    assert found["image debian12"]["digest"] == {"sha256": "b" * 64}


def test_an_allocator_that_was_built() -> None:
    tarballs = {"src": {"version": "2.7", "url": "https://example.org/g-2.7.tar.gz", "sha256": "7" * 64}}
    found = dependencies(allocator={"name": "libunwind", "kind": "gperftools", "tarballs": tarballs})
    assert found["allocator src"] == {
        "name": "allocator src", "uri": "https://example.org/g-2.7.tar.gz", "digest": {"sha256": "7" * 64},
    }  # fmt: skip


def test_a_patch_that_the_source_has_already_is_told_as_such() -> None:
    source = make_manifest()["source"]
    source["patches"][0]["state"] = "present"
    found = dependencies(source=source)
    assert found["patch pull-9"]["annotations"] == {"state": "present"}
    assert found["patch local"]["annotations"] == {"state": "applied"}
    assert found["source"]["annotations"] == {"kind": "product", "ref": "v1.0", "tag": "v1.0", "version": "v1.0"}


def test_a_manifest_of_before_is_told_of_as_it_was() -> None:
    """A signature in an RPM's header changes the file, so that its provenance is written anew from its old manifest."""
    source = make_manifest()["source"]
    for name in ("kind", "tag", "version"):
        del source[name]
    for patch in source["patches"]:
        del patch["state"]
    found = dependencies(source=source)
    assert "annotations" not in found["source"]
    assert "annotations" not in found["patch pull-9"]


def test_a_tarball_as_source() -> None:
    found = dependencies(source__url="", source__head="", source__commit="5" * 64)
    assert (found["source"]["digest"], "uri" in found["source"]) == ({"sha256": "5" * 64}, False)


def test_a_bootstrapped_image_is_known_by_its_packages() -> None:
    image = dependencies(image__base="bootstrap bookworm")["image debian12"]
    other = dependencies(image__base="bootstrap bookworm", image__build_packages={"gcc:amd64": "4:13"})[
        "image debian12"
    ]
    assert image["uri"] == "bootstrap:bookworm"
    assert "digest" not in image
    assert image["annotations"] != other["annotations"]


def test_debug_information_has_no_manifest() -> None:
    definition = told(manifest_sha256="")["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["contents"] == "debug"
    assert "manifest" not in definition["internalParameters"]


def test_the_builder_in_github_actions() -> None:
    builder = builder_of(ACTIONS)
    assert builder.id == "https://forge.example/me/house/.github/workflows/build.yml@refs/tags/v1"
    assert builder.invocation == "https://forge.example/me/house/actions/runs/42/attempts/2"
    statement = told(builder)
    assert statement["predicate"]["runDetails"]["metadata"] == {"invocationId": builder.invocation}
    assert "CANARY" not in json.dumps(statement)


@pytest.mark.parametrize("without", ["GITHUB_ACTIONS", "GITHUB_WORKFLOW_REF", "GITHUB_RUN_ID"])
def test_any_other_builder_is_a_local_one(without: str) -> None:
    assert builder_of({name: value for name, value in ACTIONS.items() if name != without}) == Builder()


@pytest.mark.parametrize("builder", [Builder(), builder_of(ACTIONS), Builder(started="2026-01-01T00:00:00Z")])
def test_the_builder_can_be_read_again(builder: Builder) -> None:
    statement = provenance.statement(claimed(), artifact="x", sha256="0" * 64, builder=builder)
    assert builder_in(statement.text()) == builder
    assert Statement.model_validate_json(statement.text()) == statement


NO_STATEMENTS = {
    "nothing": "",
    "no JSON": "{",
    "a list": "[]",
    "empty": "{}",
    "no names": '{"predicate": {"runDetails": {"builder": 1}}}',
    "too deep": "[" * 100_000,
}


@pytest.mark.parametrize("text", NO_STATEMENTS.values(), ids=NO_STATEMENTS.keys())
def test_no_builder_is_in_what_is_no_statement(text: str) -> None:
    assert builder_in(text) is None


def test_times_only_if_they_are_passed() -> None:
    builder = Builder(started="2026-01-01T00:00:00Z", finished="2026-01-01T01:00:00Z")
    metadata = told(builder)["predicate"]["runDetails"]["metadata"]
    assert metadata == {"startedOn": "2026-01-01T00:00:00Z", "finishedOn": "2026-01-01T01:00:00Z"}


def test_passwords_in_urls_stay_out() -> None:
    secret = "https://me:CANARY@example.org/demo.git"
    patch = {"name": "p", "sha256": "1" * 64, "url": f"{secret}?token=CANARY", "why": ""}
    text = json.dumps(told(source__url=secret, source__patches=[patch]))
    assert "CANARY" not in text
    assert "***@example.org/demo.git" in text


class TestDescribe:
    def test_the_files_beside_an_artifact(self, tmp_path: Path) -> None:
        path = deliver(tmp_path)
        statement = json.loads((tmp_path / f"{NAME}.intoto.json").read_text())
        bill = json.loads((tmp_path / f"{NAME}.sbom.json").read_text())
        assert statement["subject"][0]["digest"]["sha256"] == bill["metadata"]["component"]["hashes"][0]["content"]
        assert path.name == NAME

    def test_a_second_time_nothing_is_written(self, tmp_path: Path) -> None:
        path = deliver(tmp_path)
        before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
        describe(path, builder=Builder())
        assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before

    def test_the_artifacts_own_manifest_counts(self, tmp_path: Path) -> None:
        path = deliver(tmp_path)
        describe(path, builder=Builder(), manifest=make_manifest(cell="another"))
        statement = json.loads((tmp_path / f"{NAME}.intoto.json").read_text())
        assert statement["predicate"]["buildDefinition"]["externalParameters"]["cell"] == "R620-debian12-none"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"[", "Invalid JSON"),
            (b"[" * 50_000, "Invalid JSON"),
            (b"[" * 100_000, "it has more than 80000 values"),
            (b"[]", "Input should be an object"),
            (b"{}", "product: Field required"),
        ],
        ids=["half", "too deep", "too many", "list", "empty"],
    )
    def test_what_is_no_manifest_is_refused(self, tmp_path: Path, text: bytes, message: str) -> None:
        with pytest.raises(AuditError) as caught:
            describe(pack(tmp_path / NAME, TREE, text), builder=Builder())
        assert caught.value.message.startswith(f"manifest.json cannot be read: {message}")

    def test_debug_information_is_described_by_a_manifest_that_is_given(self, tmp_path: Path) -> None:
        path = tmp_path / "debug.tar.gz"
        path.write_bytes(tar_bytes({"demo/bin/demo.debug": b"d"}, mode="w:gz"))
        with pytest.raises(AuditError) as caught:
            describe(path, builder=Builder())
        assert caught.value.message == "there is no manifest.json in it"
        describe(path, builder=Builder(), manifest=make_manifest())
        statement = json.loads((tmp_path / "debug.tar.gz.intoto.json").read_text())
        assert statement["predicate"]["buildDefinition"]["externalParameters"]["contents"] == "debug"


def test_the_manifest_is_known_by_its_digest(tmp_path: Path) -> None:
    first = manifest_bytes({**make_manifest(), "contents": listed(tmp_path, TREE)})
    path = pack(tmp_path / NAME, TREE, first)
    describe(path, builder=Builder())
    statement = json.loads((tmp_path / f"{NAME}.intoto.json").read_text())
    wanted = hashlib.sha256(first).hexdigest()
    assert statement["predicate"]["buildDefinition"]["internalParameters"]["manifest"]["sha256"] == wanted
