"""Which compiler cache a compilation uses, and what says so."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from unit.helpers import FakeEngine, make_workspace

from pikaforge.attest.provenance import Builder, builder_in
from pikaforge.cli import arguments
from pikaforge.cli.context import Context
from pikaforge.host import compiler_cache as caches
from pikaforge.host.release import builds_release
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline import compiler_cache


@pytest.fixture
def shop(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path, FakeEngine())


def test_each_source_has_its_own(shop: Workspace) -> None:
    found = [compiler_cache.of(shop, sources, unpatched=["x"]) for sources in (["a"], ["b"], ["a", "b"], ["b", "a"])]
    names = {cache.name for cache in found}
    assert len(names) == 4
    assert not any(cache.shared for cache in found)
    assert compiler_cache.of(shop, ["a"]).name in names
    assert compiler_cache.of(replace(shop, compiler_cache=False), ["a"]).name == ""


def test_those_who_ask_for_it_share_one_for_all_patches(shop: Workspace) -> None:
    sharing = replace(shop, shares_cache=True)
    one, two = (compiler_cache.of(sharing, [tree], unpatched=["demo", "commit"]) for tree in ("a", "b"))
    assert one == two
    assert one.shared
    assert compiler_cache.of(sharing, ["a"], unpatched=["demo", "another commit"]).name != one.name
    assert not compiler_cache.of(sharing, ["a"]).shared, "an allocator has no patches"
    assert compiler_cache.of(replace(sharing, compiler_cache=False), ["a"], unpatched=["demo"]).name == ""


def test_what_was_made_with_a_shared_one_stays_among_those(shop: Workspace, tmp_path: Path) -> None:
    sharing = replace(shop, shares_cache=True)
    (tmp_path / "own").mkdir()
    shared, own = result(tmp_path, "a" * 64, shared=True), result(tmp_path / "own", "b" * 64)
    assert compiler_cache.used_by(shared) == "sha256:" + "a" * 64
    assert compiler_cache.lost(shared, sharing) == compiler_cache.lost(own, sharing) == ""
    assert "other patches" in compiler_cache.lost(shared, shop)
    assert compiler_cache.lost(shared, replace(sharing, compiler_cache=False)) != ""


def result(folder: Path, name: str | None, *, shared: bool = False) -> Result:
    cache = compiler_cache.CompilerCache(name=name or "", shared=shared)
    files = {} if name is None else {compiler_cache.FILE: compiler_cache.record(cache, folder)}
    return Result(stage="compile", key="k", identity="i", facts={}, files=files)


def test_a_result_says_what_it_was_made_with(shop: Workspace, tmp_path: Path) -> None:
    without = replace(shop, compiler_cache=False)
    assert compiler_cache.used_by(result(tmp_path, "a" * 64)) == "sha256:" + "a" * 64
    assert compiler_cache.lost(result(tmp_path, "a" * 64), without) != ""
    assert compiler_cache.lost(result(tmp_path, "a" * 64), shop) == ""
    assert compiler_cache.used_by(result(tmp_path, "")) == "none"
    assert compiler_cache.lost(result(tmp_path, ""), without) == compiler_cache.lost(result(tmp_path, ""), shop) == ""
    assert compiler_cache.used_by(result(tmp_path, None)) == compiler_cache.used_by(None) == ""
    assert compiler_cache.lost(result(tmp_path, None), without) != "", "of before there were records"
    (tmp_path / compiler_cache.FILE).write_bytes(b"\xff" * (1 << 20))
    made = replace(result(tmp_path, None), files={compiler_cache.FILE: tmp_path / compiler_cache.FILE})
    assert compiler_cache.used_by(made) == ""


@pytest.mark.parametrize(
    ("words", "environ", "used"),
    [
        ([], {}, True),
        (["--locked"], {}, False),
        (["--no-compiler-cache"], {}, False),
        ([], {"GITHUB_ACTIONS": "true", "GITHUB_REF_TYPE": "tag"}, False),
        ([], {"GITHUB_ACTIONS": "true", "GITHUB_REF_TYPE": "branch"}, True),
        ([], {"GITHUB_REF_TYPE": "tag"}, True),
    ],
)
def test_releases_use_none(
    words: list[str], environ: dict[str, str], used: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("GITHUB_ACTIONS", "GITHUB_REF_TYPE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert builds_release(os.environ) == (environ.get("GITHUB_REF_TYPE") == "tag" and "GITHUB_ACTIONS" in environ)
    parsed = arguments.parser().parse_args(["build", "R620", "--out", str(tmp_path), *words])
    assert Context(parsed).workspace(FakeEngine()).compiler_cache is used


def test_the_provenance_keeps_it() -> None:
    """A signature inside a package changes its digest, so it is described again by what the statement names."""
    used = {"compile": "sha256:" + "a" * 64}
    text = {
        "predicate": {
            "buildDefinition": {"internalParameters": {"compilerCaches": used}},
            "runDetails": {"builder": {"id": "https://example.org/b"}},
        }
    }
    assert builder_in(json.dumps(text)) == Builder(id="https://example.org/b", compiler_caches=used)
    del text["predicate"]["buildDefinition"]
    assert builder_in(json.dumps(text)) == Builder(id="https://example.org/b")


def test_old_volumes_are_removed() -> None:
    own = [(caches.volume_of(f"{number:02}" * 32), f"2026-01-{number:02}") for number in range(1, caches.KEPT + 3)]
    shared = ("pikaforge-ccache", "2026-02-01")
    assert caches.superfluous([*own, shared]) == [own[0][0], own[1][0], "pikaforge-ccache"]
    assert caches.superfluous(own[: caches.KEPT]) == []


def test_old_folders_are_removed(tmp_path: Path) -> None:
    parent = tmp_path / "ccache"
    made = []
    for number in range(caches.KEPT + 2):
        folder = caches.local(parent, f"{number:02}" * 32)
        (folder / "object").write_text("x")
        os.utime(folder, (number, number))
        made.append(folder)
    os.utime(made[2], (1000, 1000))
    (parent / "ccache.conf").write_text("of before\n")
    os.utime(parent / "ccache.conf", (0, 0))
    assert [folder.is_dir() for folder in made] == [False, False, *[True] * caches.KEPT]
    newest = caches.local(parent, "f" * 64)
    assert newest.is_dir()
    assert made[2].is_dir(), "it was used since"
    assert not made[3].exists()
    assert sorted(parent.iterdir()) == sorted([made[2], *made[4:], newest])
    assert caches.local(parent, "f" * 64) == newest, "nothing is removed for one that is there"
