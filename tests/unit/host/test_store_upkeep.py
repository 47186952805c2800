"""What was not used for the longest time goes first; what a running process uses stays."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path

import pytest

from pikaforge.host import store_uses
from pikaforge.host.run_id import RunId
from pikaforge.host.store import RECORD, Store
from pikaforge.host.store_upkeep import damaged, drop, entries, prune

DAY = 86_400


def keys(*numbers: int) -> list[str]:
    return [f"{number:032x}" for number in numbers]


def fill(root: Path, count: int, *, size: int = 1000) -> None:
    """Make entries that were last used 1, 2, … days ago; they are not in use any more."""
    store = Store(root)
    for number in range(count):
        with store.scratch() as scratch:
            path = scratch / "made"
            path.write_bytes(b"x" * size)
            key = f"{number:032x}"
            store.put("compile", key, identity="i", facts={}, files={"tree.tar": path})
        then = time.time() - (number + 1) * DAY - 60
        os.utime(root / "compile" / key / RECORD, (then, then))
    del store
    gc.collect()
    assert not list(root.glob(".uses-*"))


def left(root: Path) -> list[str]:
    return sorted(entry.key for entry in entries(root))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fill(tmp_path / "store", 5)
    return tmp_path / "store"


def test_entries_come_in_the_order_of_their_use(root: Path) -> None:
    found = entries(root)
    assert [entry.key for entry in found] == keys(4, 3, 2, 1, 0)
    assert {entry.stage for entry in found} == {"compile"}
    assert all(entry.bytes > 1000 for entry in found)
    assert entries(root / "absent") == []


def test_what_is_older_goes(root: Path) -> None:
    done = prune(Store(root), older=3 * DAY)
    assert [entry.key for entry in done.removed] == keys(4, 3, 2)
    assert left(root) == keys(0, 1)
    assert not list(root.glob(".new-*"))


def test_the_oldest_go_until_the_rest_fits(root: Path) -> None:
    each = entries(root)[0].bytes
    done = prune(Store(root), keep=2 * each)
    assert [entry.key for entry in done.removed] == keys(4, 3, 2)
    assert prune(Store(root), keep=2 * each).removed == ()


def test_a_use_makes_an_entry_young_again(root: Path) -> None:
    assert Store(root).get("compile", keys(4)[0])[0] is not None
    gc.collect()
    assert entries(root)[-1].key == keys(4)[0]
    prune(Store(root), older=1.5 * DAY)
    assert left(root) == keys(0, 4)


def test_looking_is_no_use(root: Path) -> None:
    Store(root).peek("compile", keys(4)[0])
    assert list(damaged(Store(root))) == []
    assert entries(root)[0].key == keys(4)[0]
    assert not list(root.glob(".uses-*"))


def test_what_is_in_use_stays_and_is_named(root: Path) -> None:
    user = Store(root)
    found, _ = user.get("compile", keys(4)[0])
    assert found is not None
    then = time.time() - 9 * DAY
    os.utime(root / "compile" / keys(4)[0] / RECORD, (then, then))
    done = prune(Store(root), keep=0)
    assert [entry.key for entry in done.in_use] == keys(4)
    assert left(root) == keys(4)
    assert found.files["tree.tar"].read_bytes() == b"x" * 1000
    del user
    gc.collect()
    assert [entry.key for entry in prune(Store(root), keep=0).removed] == keys(4)


def test_what_was_made_is_in_use(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.put("smoke", keys(1)[0], identity="i", facts={}, files={})
    assert prune(Store(tmp_path / "store"), keep=0).removed == ()


def test_the_list_of_a_process_that_has_ended_counts_for_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = RunId.current().machine
    dead = RunId(machine=machine, pid=1, started="1")
    elsewhere = RunId(machine="0" * 16, pid=1, started="1")
    (root / f".uses-{dead.text}-abc").write_text(f"compile/{keys(3)[0]}\n")
    (root / f".uses-{elsewhere.text}-abc").write_text(f"compile/{keys(4)[0]}\n")
    (root / ".uses-nonsense").write_text(f"compile/{keys(2)[0]}\n")
    prune(Store(root), keep=0)
    assert left(root) == keys(4), "nothing is known of a process of another machine"
    Store(root).sweep()
    assert sorted(path.name for path in root.glob(".uses-*")) == [f".uses-{elsewhere.text}-abc", ".uses-nonsense"]


def test_a_child_leaves_the_list_of_its_parent(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(root)
    store.get("compile", keys(0)[0])
    [path] = root.glob(".uses-*")
    store_uses._forget(path, os.getpid() + 1)
    assert path.exists()


def test_a_store_that_cannot_be_written_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    store = Store(root)
    monkeypatch.setattr(store._uses, "add", refuse)
    assert store.get("compile", keys(0)[0])[0] is not None


def test_what_is_damaged_is_found_and_removed(root: Path) -> None:
    (root / "compile" / keys(1)[0] / "tree.tar").write_bytes(b"y" * 1000)
    (root / "compile" / keys(2)[0] / RECORD).write_text("{")
    found = dict(damaged(Store(root)))
    assert sorted(entry.key for entry in found) == keys(1, 2)
    assert any("does not have the digest it was stored with" in why for why in found.values())
    (root / "compile" / keys(2)[0] / RECORD).unlink()
    user = Store(root)
    user.get("compile", keys(1)[0])
    assert [entry.key for entry in drop(Store(root), found)] == keys(2), "the other one is in use"
    assert left(root) == keys(0, 1, 3, 4)


def test_an_entry_is_there_as_long_as_somebody_uses_it(tmp_path: Path) -> None:
    """One thread removes what it can, while others take entries and read them."""
    root = tmp_path / "store"
    over = threading.Event()
    lost: list[str] = []

    def pruner() -> None:
        while not over.is_set():
            prune(Store(root), keep=0)

    def user(number: int) -> None:
        for turn in range(30):
            store = Store(root)
            key = f"{turn % 3:032x}"
            found, bad = store.get("compile", key)
            if bad:
                lost.append(bad)
            if found is None:
                with store.scratch() as scratch:
                    path = scratch / "made"
                    path.write_bytes(b"x" * 1000)
                    found = store.put("compile", key, identity="i", facts={}, files={"tree.tar": path})
            try:
                if found.files["tree.tar"].read_bytes() != b"x" * 1000:
                    lost.append(f"{number}: changed")
            except OSError as error:
                lost.append(f"{number}: {error}")

    remover = threading.Thread(target=pruner)
    remover.start()
    users = [threading.Thread(target=user, args=(number,)) for number in range(4)]
    for thread in users:
        thread.start()
    for thread in users:
        thread.join()
    over.set()
    remover.join()
    assert lost == []
    gc.collect()
    assert not list(root.glob(".uses-*")), "nothing is left"
