"""The power is cut after each step of what is written: whoever reads finds whole states, and the next run heals.

What a disk may have then is in `tests/power.py`. Publishing is done through its own interface, so that nothing here
depends on how it does it.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import thorough
from integration.builds import STAGES
from power import Recorder, Tree, after, cuts, put, recorded
from publishing import Root, Shelf
from survival import digests, seed_of

from pikaforge.cli.main import main
from pikaforge.host.durable import write_atomically
from pikaforge.host.lockfile import Lock
from pikaforge.host.store import Store
from pikaforge.publish.sites.directory import Directory
from pikaforge.publish.state import STATE, read_state

if TYPE_CHECKING:
    from conftest import Project
    from integration.conftest import Shop

DRAWS = 20 if thorough.whole("survival") else 3
"""How often chance decides about each cut."""
SOME = 12
"""Cuts of what takes long to be healed, in a plain run."""
KEY = "0123456789abcdef"
FILES = {"tree.tar": b"a tree " * 500, "debug.tar": b"what it was made of " * 200}
PLACE = "debian12/R620"


@pytest.fixture
def chance() -> random.Random:
    return seed_of("power")


def found(recorder: Recorder, chance: random.Random, *, most: int = 0) -> list[tuple[Tree, bool]]:
    """What may be found after a cut, and whether that was at the end.

    Args:
        recorder: has seen the steps.
        chance: decides.
        most: of these in a plain run, besides those of the end; 0 means all.
    """
    trees = cuts(recorder, chance, draws=DRAWS)
    if most and not thorough.whole("survival"):
        trees = chance.sample(trees, min(most, len(trees)))
    return [*((tree, False) for tree in trees), *((tree, True) for tree in after(recorder, chance))]


def told(what: str, recorder: Recorder, tried: int) -> None:
    """Print the count."""
    print(f"power: {what}: {len(recorder.moments) - 1} steps, {tried} states after a cut")


def store_result(store: Store, work: Path) -> None:
    """Put the result."""
    work.mkdir()
    for name, data in FILES.items():
        (work / name).write_bytes(data)
    files = {name: work / name for name in FILES}
    store.put("compile", KEY, identity="i", facts={"made": True}, files=files)


@pytest.mark.parametrize("before", ["nothing", "a bad entry"])
def test_a_result_is_whole_or_not_there(
    before: str, tmp_path: Path, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "top" / "store")
    (tmp_path / "top").mkdir()
    if before == "a bad entry":
        store_result(store, tmp_path / "first")
        (store.root / "compile" / KEY / "tree.tar").write_bytes(b"bad")
    with recorded(tmp_path / "top", monkeypatch) as recorder:
        store_result(store, tmp_path / "work")
    trees = found(recorder, chance)
    for number, (tree, end) in enumerate(trees):
        put(tree, tmp_path / str(number))
        again = Store(tmp_path / str(number) / "store")
        again.sweep()
        result, _ = again.get("compile", KEY)
        if result is not None:
            assert {name: path.read_bytes() for name, path in result.files.items()} == FILES
        assert result is not None or not end, "what `put` has returned is lost"
        store_result(again, tmp_path / f"work-{number}")
        assert again.get("compile", KEY)[0] is not None
        assert list(again.root.glob(".new-*")) == []
    told(f"a result over {before}", recorder, len(trees))
    assert len(trees) > 10


def test_a_file_has_its_old_bytes_or_its_new_ones(
    tmp_path: Path, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = tmp_path / "top"
    write_atomically(top / "file", "old")
    with recorded(top, monkeypatch) as recorder:
        write_atomically(top / "file", "new " * 100)
        write_atomically(top / "a" / "b" / "other", "other")
    trees = cuts(recorder, chance, draws=DRAWS)
    for number, tree in enumerate(trees):
        folder = tmp_path / str(number)
        put(tree, folder)
        assert (folder / "file").read_text() in ("old", "new " * 100)
        other = folder / "a" / "b" / "other"
        assert not other.exists() or other.read_text() == "other"
    for tree in after(recorder, chance):
        assert tree == trees[-1], "what was returned from is on the disk"
    told("a file", recorder, len(trees))


def test_pins_are_not_forgotten(tmp_path: Path, chance: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was built from a pin must not be built from something else after a cut."""
    top = tmp_path / "top"
    top.mkdir()
    with recorded(top, monkeypatch) as recorder:
        lock = Lock(top / "sources.lock")
        for number in range(3):
            lock.check("sources", "pika", f"patch {number}", str(number))
    trees = cuts(recorder, chance, draws=DRAWS)
    for number, tree in enumerate(trees):
        put(tree, tmp_path / str(number))
        pins = Lock(tmp_path / str(number) / "sources.lock").pins("sources", "pika")
        assert dict(pins) in [{f"patch {n}": str(n) for n in range(count)} for count in range(4)]
    for number, tree in enumerate(after(recorder, chance)):
        put(tree, tmp_path / f"end-{number}")
        assert len(Lock(tmp_path / f"end-{number}" / "sources.lock").pins("sources", "pika")) == 3
    told("sources.lock", recorder, len(trees))


# ---- dist/


@pytest.fixture
def stocked(shop: Shop, tmp_path: Path) -> Project:
    """A project whose results are all there, so that a build only writes dist/."""
    project = shop.ready(tmp_path / "project")
    shop.take(project, *STAGES[1:])
    return project


@pytest.mark.engine
@pytest.mark.long(60)
def test_the_next_build_heals_dist(stocked: Project, chance: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that has its name is whole, or the next build puts it in its place again."""
    dist = stocked.dist

    def build() -> None:
        assert main(stocked.arguments("build", "R620", "--quiet")) == 0

    build()
    whole = digests(dist)
    shutil.rmtree(dist)
    dist.mkdir()
    with recorded(dist, monkeypatch) as recorder:
        build()
    trees = found(recorder, chance, most=SOME // 2)
    for tree, _ in trees:
        shutil.rmtree(dist)
        put(tree, dist)
        build()
        assert digests(dist) == whole
        sums_are_right(dist / "debian12")
        assert [path for path in dist.rglob(".*") if path.name != ".lock"] == []
    told("dist/", recorder, len(trees))


def sums_are_right(folder: Path) -> None:
    """What SHA256SUMS of a folder says is so."""
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


# ---- publishing to a folder


def root_at(folder: Path, shelf: Shelf) -> Root:
    """A root in a folder, with what there is to be published."""
    return Root(shelf=shelf, site=Directory(folder))


def served(root: Path) -> str:
    """The version that a reader finds, after all was compared with its digests; "" if nothing is published."""
    if not root.exists():
        return ""
    site = Directory(root)
    state = read_state(site.read(f"{PLACE}/{STATE}"), where=str(root))
    if state is None:
        assert list(root.rglob("SHA256SUMS")) == [] or not (root / PLACE).exists()
        return ""
    for file in state.files():
        data = site.read(f"{PLACE}/{file.path}")
        assert data is not None, f"{file.path} is named, and not there"
        assert hashlib.sha256(data).hexdigest() == file.sha256, file.path
    for sums in (root / PLACE).rglob("SHA256SUMS"):
        sums_are_right(sums.parent)
    return max(artifact.product_version for artifact in state.listed())


@pytest.mark.parametrize("there", [0, 1, 2], ids=["the first time", "over what is there", "over an old one, too"])
def test_readers_find_whole_generations_and_the_next_publisher_heals(
    there: int, tmp_path: Path, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(tmp_path / "shelf")
    items = {version: shelf.item(version, format="tar") for version in ("0.9", "1.0", "2.0", "3.0")}
    top = tmp_path / "top"
    top.mkdir()
    for version in ("0.9", "1.0")[2 - there :]:
        root_at(top / "root", shelf).publish(items[version])
    with recorded(top, monkeypatch) as recorder:
        root_at(top / "root", shelf).publish(items["2.0"])
    old, new = ("v1.0" if there else ""), "v2.0"
    assert served(top / "root") == new
    trees = found(recorder, chance, most=SOME)
    for number, (tree, end) in enumerate(trees):
        folder = tmp_path / str(number) / "root"
        put(tree, folder.parent)
        version = served(folder)
        assert version in (old, new)
        assert version == new or not end, "what was published is lost"
        again = root_at(folder, shelf)
        again.publish(items["2.0"])
        assert served(folder) == new
        again.publish(items["3.0"])
        assert served(folder) == "v3.0"
        left = [path for path in folder.rglob(".*") if path.name != ".lock" and not path.name.endswith(".generations")]
        assert left == []
        shutil.rmtree(folder.parent)
    told(f"publishing over {there} generations", recorder, len(trees))
