"""Builds of two projects with one shared store, and removal of results while a build runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from integration.builds import STAGES
from integration.dav import PROXIES
from integration.keys import new_key
from integration.object_server import ObjectServer, object_server

from pikaforge.host.store import sha256

if TYPE_CHECKING:
    from conftest import Project, Tool
    from integration.conftest import Shop

pytestmark = [pytest.mark.engine]

SHARED = tuple(stage for stage in STAGES if stage != "image")


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, "NETRC"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def projects(shop: Shop, shrink: Callable[..., None], tmp_path: Path) -> Callable[[str], Project]:
    """A project of the tiny product, with its own out/ and the images that are there."""

    def make(name: str) -> Project:
        project = shop.ready(tmp_path / name)
        shrink(project)
        return project

    return make


@pytest.fixture
def server() -> Iterator[ObjectServer]:
    with object_server(dav=True) as found:
        yield found


def made(project: Project) -> set[str]:
    """The stages that have run: each writes a log."""
    return {path.stem.removesuffix("-emulated") for path in (project.out / "logs").rglob("*.log")}


def test_the_second_project_compiles_nothing(
    projects: Callable[[str], Project], server: ObjectServer, tool: Tool, tmp_path: Path
) -> None:
    first, second = projects("first"), projects("second")
    with new_key(tmp_path / "key", "ed25519") as key:
        first.change(lambda matrix: matrix.update(store={"url": server.url}))
        second.change(lambda matrix: matrix.update(store={"url": server.url, "keys": ["builders.asc"], "write": False}))
        (second.folder / "builders.asc").write_bytes(key.public.read_bytes())
        env = {"PIKAFORGE_STORE_SIGNING_KEY": str(key.secret)}
        with tool.start(*first.arguments("build", "R620"), env=env) as running:
            running.wait_for(r"^compile  \S+ \.\.\.$")
            # The source is in use by then; so are the images, and what comes later.
            pruned = json.loads(tool("cache", "prune", "--keep", "1", "--json", "--out", first.out, check=0).stdout)
            done = running.finish()
        assert done.returncode == 0
        assert {name.partition("/")[0] for name in pruned["in_use"]} >= {"source", "image"}
        assert pruned["removed"] == []
        assert made(first) >= {"source", "compile", "audit", "smoke"}
        done = second.build("R620", check=0)
        assert "shared store" not in done.text
        assert made(second) == set()
        assert sha256(first.package()) == sha256(second.package())
        for stage in SHARED:
            assert first.stored(stage).keys() == second.stored(stage).keys() != set()
        assert not [path for path in server.held if path.startswith("results/image/")]

        # Nothing runs any more: now it goes. What a stranger signs, or nobody, is made here.
        tool("cache", "prune", "--keep", "1", "--out", second.out, check=0)
        assert not list((second.out / "store").glob("[!.]*/*"))
        assert not list((second.out / "store").glob(".uses-*"))
    with new_key(tmp_path / "other", "ed25519") as other:
        (second.folder / "builders.asc").write_bytes(other.public.read_bytes())
        done = second.build("R620", check=0)
    assert "is not taken: it is by the key" in done.text
    assert made(second) >= {"source", "compile"}


def test_a_dead_store_stops_no_build(projects: Callable[[str], Project], tool: Tool) -> None:
    with object_server() as server:
        url = server.url
    project = projects("first")
    done = project.build("R620", env={"PIKAFORGE_STORE": url}, check=0)
    lines = [line for line in done.text.splitlines() if "shared store" in line]
    assert len(lines) == 1
    assert f"the shared store {url} is not used in this run: GET failed" in lines[0]
    info = json.loads(tool("cache", "info", "--json", *project.places, env={"PIKAFORGE_STORE": url}, check=0).stdout)
    assert info["shared"]["unreachable"]
    assert info["results"]["compile"]["count"] == 1
    [entry] = (project.out / "store" / "compile").iterdir()
    (entry / "tree.tar").write_bytes(b"damaged")
    assert "tree.tar does not have the digest" in tool("cache", "verify", "--out", project.out, check=4).stdout
    tool("cache", "verify", "--yes", "--out", project.out, check=0)
    assert not entry.exists()
