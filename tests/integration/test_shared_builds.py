"""Builds of two projects with one shared store, and removal of results while a build runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from integration.builds import STAGES
from integration.dav import PROXIES, WRITER, dav_of, nginx_image
from integration.keys import new_key
from integration.object_server import ObjectServer, object_server

from pikaforge.attest.describe import PROVENANCE_SUFFIX
from pikaforge.config.scalars import Strict
from pikaforge.config.shared_store import SharedStoreOptions
from pikaforge.host.store import Store, sha256
from pikaforge.sharing.opening import opened

if TYPE_CHECKING:
    from conftest import Engine, Project, Tool
    from integration.conftest import Shop, Warm

pytestmark = [pytest.mark.engine]

KEY = "0123456789abcdef0123456789abcdef"
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


def shared_results(project: Project) -> dict[str, str] | None:
    """What the provenance of the package says of results that others have made."""
    path = project.package()
    statement = json.loads(path.with_name(f"{path.name}{PROVENANCE_SUFFIX}").read_text(encoding="utf-8"))
    found: dict[str, str] | None = statement["predicate"]["buildDefinition"]["internalParameters"].get("sharedResults")
    return found


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
        assert f"the shared store {server.url}: {len(SHARED)} results put there" in done.text
        assert {name.partition("/")[0] for name in pruned["in_use"]} >= {"source", "image"}
        assert pruned["removed"] == []
        assert made(first) >= {"source", "compile", "audit", "smoke"}
        done = second.build("R620", check=0)
        assert f"the shared store {server.url}: {len(SHARED)} results taken from it" in done.text
        assert made(second) <= {"image"}, "the engine is shared: another run may have removed one"
        assert sha256(first.package()) == sha256(second.package())
        assert shared_results(first) is None
        assert shared_results(second) == dict.fromkeys(SHARED, server.url)
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


@pytest.fixture(scope="module")
def nginx(engine: Engine, warm: Warm) -> str:
    return nginx_image(engine, warm)


@dataclass
class _Reader:
    """What takes and puts results of a stage that is not there, from a folder of its own."""

    folder: Path
    url: str
    size: int = 1000

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.notices: list[str] = []
        self.store = Store(self.folder / "store")
        login = {"PIKAFORGE_STORE_USER": WRITER.user, "PIKAFORGE_STORE_PASSWORD": WRITER.password}
        found = opened(
            SharedStoreOptions(url=self.url),
            login,
            base=self.folder,
            cwd=self.folder,
            file_limit=64 << 20,
            notice=self.notices.append,
        )
        assert found is not None
        self.shared = found

    def put(self) -> bool:
        with self.store.scratch() as scratch:
            (scratch / "made").write_bytes(b"x" * self.size)
            made = self.store.put("compile", KEY, identity="i", facts={}, files={"tree.tar": scratch / "made"})
        return self.shared.offer(made)

    def take(self) -> int:
        found = self.shared.fetch("compile", KEY, into=self.store, facts=Strict, unfit=lambda _: "")
        return found.files["tree.tar"].stat().st_size if found is not None else -1


@pytest.mark.parametrize("port", ["", ":82"], ids=["makes-folders", "mkcol"])
def test_a_real_server_of_webdav(
    engine: Engine, nginx: str, until: Callable[..., None], tmp_path: Path, port: str
) -> None:
    with dav_of(engine, nginx, until) as dav:
        first = _Reader(tmp_path / "first", f"{dav.url}{port}/store")
        assert first.put(), first.notices
        second = _Reader(tmp_path / "second", f"{dav.url}{port}/store")
        assert second.take() == 1000
        assert sorted(path.partition("/")[2].partition("/")[0] for path in dav.listing()) == ["files", "results"]
        assert any(" MOVE " in line for line in dav.access_log())
        everybody = _Reader(tmp_path / "third", f"{dav.readers}/store")
        assert everybody.take() == 1000
        assert not everybody.put()
        assert len(everybody.notices) == 2, "one of plain http, one of a server that takes nothing"


def test_a_server_whose_disk_is_full(engine: Engine, nginx: str, until: Callable[..., None], tmp_path: Path) -> None:
    with dav_of(engine, nginx, until, size="4m") as dav:
        assert _Reader(tmp_path / "small", f"{dav.url}/store").put()
        large = _Reader(tmp_path / "large", f"{dav.url}/other", 7 << 20)
        assert not large.put()
        assert "it gets nothing more in this run" in large.notices[-1]
        assert not [path for path in dav.listing("other") if "results" in path], "no listing of what is not there"
        assert _Reader(tmp_path / "reader", f"{dav.url}/store").take() == 1000


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
