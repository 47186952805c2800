"""The manifest: written and read by one class, whatever format of it a package has."""

from __future__ import annotations

import json
from typing import Any

import pytest
from unit.artifacts import claimed, make_manifest

from pikaforge.errors import AuditError
from pikaforge.formats.manifest import ManifestPatch, read_manifest


def first_format() -> dict[str, Any]:
    """A manifest as the first version wrote it."""
    data = make_manifest(format=1)
    for name in ("audit",):
        del data[name]
    for name in ("library", "unwinder"):
        del data["allocator"][name]
    for name in ("kind", "tag", "version"):
        del data["source"][name]
    for patch in data["source"]["patches"]:
        del patch["state"]
    return data


def test_what_was_written_is_read_again() -> None:
    manifest = claimed(contents=[{"path": "a", "mode": "0644", "sha256": "1" * 64}, {"path": "b", "link": "a"}])
    assert read_manifest(manifest.text().encode(), where="x") == manifest
    assert read_manifest(manifest.as_json(), where="x") == manifest


def test_what_is_not_there_is_not_written() -> None:
    text = json.loads(claimed().text())
    assert {"tried", "contents"} & set(text) == set()
    assert {"version", "tarballs", "built"} & set(text["allocator"]) == set()
    [library] = text["bundled_libraries"]
    assert "code" not in library


def test_the_first_format_is_read() -> None:
    manifest = read_manifest(json.dumps(first_format()).encode(), where="x")
    assert manifest.audit.symbol_versions is None, "it is not known, which is not the same as none"
    assert manifest.contents is None
    assert [patch.applied for patch in manifest.source.patches] == [True, True]
    assert (manifest.image.baseline, manifest.source.kind) == ("", "")


def test_what_a_later_version_adds_is_ignored() -> None:
    assert read_manifest(make_manifest(later={"x": 1}, image__later=1), where="x") == claimed()


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"source_date_epoch": "1"}, "source_date_epoch: Input should be a valid integer"),
        ({"flags": "-O2"}, "flags: Input should be a valid"),
        ({"source__patches": [{"name": "x"}]}, "source.patches.0.sha256: Field required"),
        ({"contents": [{"mode": "0644"}]}, "contents.0.path: Field required"),
        ({"image__build_packages": []}, "image.build_packages: Input should be"),
    ],
)
def test_what_is_no_manifest(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(AuditError) as caught:
        read_manifest(json.dumps(make_manifest(**changes)).encode(), where="a.tar.gz")
    assert caught.value.message.startswith(f"manifest.json cannot be read: {where}")
    assert caught.value.where == "a.tar.gz"


@pytest.mark.parametrize(
    ("state", "applied"), [(None, True), ("applied", True), ("present", False), ("conflict", False)]
)
def test_the_state_of_a_patch(state: str | None, applied: bool) -> None:
    assert ManifestPatch(name="x", sha256="1", url="", state=state).applied is applied
