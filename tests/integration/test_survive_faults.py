"""Each call that changes a folder fails in turn: what is there stays whole, and the next run ends with the same bytes.

A call fails once, or it and all that come after it do, as on a disk that has become read-only; or the process is killed
before it. See `tests/faults.py`.
"""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import thorough
from faults import KILLED, attempt, fault, killed, started_again
from integration.test_survive_power import FILES, KEY, root_at, served, stocked, store_result, sums_are_right
from publishing import Shelf
from survival import TRACE, digests, seed_of

from pikaforge.cli.main import main
from pikaforge.errors import HostError
from pikaforge.host.durable import write_atomically
from pikaforge.host.leftovers import sweep
from pikaforge.host.lockfile import Lock
from pikaforge.host.store import Store
from pikaforge.host.store_upkeep import prune

if TYPE_CHECKING:
    from conftest import Project

__all__ = ["stocked"]  # a fixture
WAYS = ((errno.EIO, False), (errno.ENOSPC, False), (errno.EDQUOT, False), (errno.EROFS, True), (KILLED, False))
"""Errors, and whether all later calls fail, too; and the end of the process."""
SOME = 3
"""Calls of what takes long to be done again, for each error in a plain run."""
Case = tuple[Path, str, Exception | None]


class Failing:
    """Does something again and again, each time with another call that fails."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._patch = patch

    def each(
        self, setup: Callable[[Path], object], work: Callable[[Path], object], *, some: random.Random | None = None
    ) -> Iterator[Case]:
        """Yield the folder after each failure, what failed, and the error with which the work has ended.

        Args:
            setup: makes what is there before, in a new folder.
            work: is done there.
            some: chooses calls in a plain run; else it is each of them.
        """
        seen = self._seen(setup, work)
        assert len(seen) > 1
        for number, lasts in WAYS:
            name = errno.errorcode.get(number, "SIGKILL")
            chosen = range(len(seen))
            places = chosen if some is None or thorough.whole("survival") else some.sample(chosen, min(SOME, len(seen)))
            for at in places:
                top = self._folder / f"{name}-{at}"
                top.mkdir(parents=True)
                setup(top)
                if number == KILLED:
                    error: Exception | None = killed(top, self._patch, partial(work, top), at=at)
                else:
                    with fault(top, self._patch, at=at, number=number, lasts=lasts) as found:
                        error = attempt(partial(work, top))
                    assert found.hits, f"call {at} of {len(seen)} was not made"
                if lasts:
                    started_again(top)
                yield top, f"{name} at {seen[at]}: {error!r}", error
                shutil.rmtree(top)
            print(f"faults: {name}{', lasting' if lasts else ''}: {len(places)} of {len(seen)} calls")

    def _seen(self, setup: Callable[[Path], object], work: Callable[[Path], object]) -> list[str]:
        top = self._folder / "whole"
        top.mkdir(parents=True)
        setup(top)
        with fault(top, self._patch, at=-1) as found:
            work(top)
        shutil.rmtree(top)
        return found.seen


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Failing:
    return Failing(tmp_path / "cases", monkeypatch)


@pytest.fixture
def chance() -> random.Random:
    return seed_of("faults")


def left(folder: Path) -> list[str]:
    """Temporary files and folders."""
    return [str(path) for path in folder.rglob(".*") if path.name != ".lock" and not path.name.startswith(".used-")]


@pytest.mark.parametrize("before", ["nothing", "a bad entry"])
def test_a_result_is_whole_or_not_there(before: str, tmp_path: Path, failing: Failing) -> None:
    def setup(top: Path) -> None:
        if before == "a bad entry":
            store_result(Store(top / "store"), top / "first")
            (top / "store" / "compile" / KEY / "tree.tar").write_bytes(b"bad")
        (top / "store").mkdir(exist_ok=True)

    def work(top: Path) -> None:
        store_result(Store(top / "store"), tmp_path / f"work-{top.name}")

    for top, case, error in failing.each(setup, work):
        again = Store(top / "store")
        again.sweep()
        result, bad = again.get("compile", KEY)
        assert bad == "" or before == "a bad entry", case
        assert result is not None or error is not None, f"{case}: what `put` has returned is lost"
        if result is not None:
            assert {name: path.read_bytes() for name, path in result.files.items()} == FILES, case
        store_result(again, tmp_path / f"again-{top.name}")
        found = again.get("compile", KEY)[0]
        assert found is not None, case
        assert {name: path.read_bytes() for name, path in found.files.items()} == FILES, case
        del found, result, again
        started_again(top)
        Store(top / "store").sweep()
        assert left(top) == [], case


def test_a_file_has_its_old_bytes_or_its_new_ones(failing: Failing) -> None:
    def setup(top: Path) -> None:
        write_atomically(top / "file", "old")

    def work(top: Path) -> None:
        write_atomically(top / "file", "new " * 100)
        write_atomically(top / "a" / "b" / "other", "other")

    for top, case, error in failing.each(setup, work):
        other = top / "a" / "b" / "other"
        assert (top / "file").read_text() in ("old", "new " * 100), case
        assert not other.exists() or other.read_text() == "other", case
        assert error is not None or other.exists(), case
        work(top)
        started_again(top)
        sweep(top)
        sweep(top / "a" / "b")
        assert left(top) == [], case


def test_pins_are_not_forgotten(failing: Failing) -> None:
    def setup(top: Path) -> None:
        Lock(top / "sources.lock").check("sources", "pika", "first", "1")

    def work(top: Path) -> None:
        Lock(top / "sources.lock").check("sources", "pika", "second", "2")

    for top, case, error in failing.each(setup, work):
        pins = Lock(top / "sources.lock").pins("sources", "pika")
        assert pins["first"] == "1", case
        assert error is not None or pins["second"] == "2", case
        work(top)
        assert Lock(top / "sources.lock").pins("sources", "pika") == {"first": "1", "second": "2"}, case


def test_what_is_pruned_is_gone_or_whole(failing: Failing) -> None:
    """Never an entry from which a part is missing."""

    def setup(top: Path) -> None:
        store_result(Store(top / "store"), top / "work")

    def work(top: Path) -> None:
        prune(Store(top / "store"), keep=0)

    for top, case, _ in failing.each(setup, work):
        result, bad = Store(top / "store").verified("compile", KEY)
        assert bad == "", case
        if result is not None:
            assert {name: path.read_bytes() for name, path in result.files.items()} == FILES, case
        started_again(top)
        again = Store(top / "store")
        again.sweep()
        prune(again, keep=0)
        assert again.verified("compile", KEY) == (None, ""), case
        assert left(top) == [], case


@pytest.mark.parametrize("there", [0, 1, 2], ids=["the first time", "over what is there", "over an old one, too"])
def test_readers_find_whole_generations_and_the_next_publisher_heals(
    there: int, tmp_path: Path, failing: Failing, chance: random.Random
) -> None:
    shelf = Shelf(tmp_path / "shelf")
    items = {version: shelf.item(version, format="tar") for version in ("0.9", "1.0", "2.0", "3.0")}

    def setup(top: Path) -> None:
        for version in ("0.9", "1.0")[2 - there :]:
            root_at(top / "root", shelf).publish(items[version])

    def work(top: Path) -> None:
        root_at(top / "root", shelf).publish(items["2.0"])

    old, new = ("v1.0" if there else ""), "v2.0"
    for top, case, error in failing.each(setup, work, some=chance):
        version = served(top / "root")
        assert version in (old, new), case
        assert error is not None or version == new, case
        work(top)
        assert served(top / "root") == new, case
        root_at(top / "root", shelf).publish(items["3.0"])
        assert served(top / "root") == "v3.0", case
        assert [path for path in left(top) if ".generations" not in Path(path).name] == [], case


@pytest.mark.engine
@pytest.mark.long(60)
def test_the_next_build_heals_dist(
    stocked: Project, failing: Failing, chance: random.Random, capsys: pytest.CaptureFixture[str]
) -> None:
    """All results are there, so that a build only writes dist/. The error has the folder, and never a traceback."""

    def setup(top: Path) -> None:
        stocked.dist = top / "dist"

    def work(top: Path) -> None:
        status = main(stocked.arguments("build", "R620", "--quiet"))
        said = "".join(capsys.readouterr())
        assert status in (0, 3), said
        assert TRACE not in said
        if status:
            raise HostError(said)

    whole: dict[str, str] = {}
    for top, case, _ in failing.each(setup, work, some=chance):
        work(top)
        whole = whole or digests(stocked.dist)
        assert digests(stocked.dist) == whole, case
        sums_are_right(stocked.dist / "debian12")
        assert left(stocked.dist) == [], case
    assert len(whole) > 5
