"""Results are there whole, or not at all; and what is bad is a miss that is said."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pikaforge.errors import FullDiskError, HostError
from pikaforge.host import ended_runs, process
from pikaforge.host import store as store_module
from pikaforge.host.durable import write_atomically
from pikaforge.host.hashing import digest
from pikaforge.host.run_id import RunId
from pikaforge.host.store import RECORD, Result, Store, sha256
from pikaforge.host.store_folders import refuse_unwritable

KEY = "0123456789abcdef0123456789abcdef"


def _put(store: Store, folder: Path, text: str = "content", *, identity: str = "same") -> Result:
    folder.mkdir(exist_ok=True)
    path = folder / "made"
    path.write_text(text)
    return store.put("compile", KEY, identity=identity, facts={"n": 1}, files={"tree.tar": path})


def _left(store: Store) -> list[str]:
    names = (path.name for path in store.root.iterdir() if not path.name.startswith((".uses-", ".used-")))
    return sorted(name for name in names if name not in ("compile", ".lock"))


def test_what_is_put_is_got(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    put = _put(store, tmp_path / "work")
    folder = tmp_path / "store" / "compile" / KEY
    assert put == Result(
        stage="compile", key=KEY, identity="same", facts={"n": 1}, files={"tree.tar": folder / "tree.tar"}
    )
    assert store.get("compile", KEY) == (put, "")
    assert store.peek("compile", KEY) == put
    assert put.files["tree.tar"].read_text() == "content"
    assert not (tmp_path / "work" / "made").exists(), "files are moved, not copied"
    assert json.loads((folder / RECORD).read_text())["files"] == {"tree.tar": digest("content")}
    assert _left(store) == []
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_result_may_have_no_files(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.put("smoke", KEY, identity="i", facts={}, files={})
    result, bad = store.get("smoke", KEY)
    assert (result is not None, bad) == (True, "")


def test_what_is_not_there_is_a_plain_miss(tmp_path: Path) -> None:
    store = Store(tmp_path / "absent")
    assert store.get("compile", KEY) == (None, "")
    assert store.peek("compile", KEY) is None
    assert not (tmp_path / "absent").exists(), "looking makes no folder"


def _flip(folder: Path) -> None:
    path = folder / "tree.tar"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)


def _record(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / RECORD).write_text(text)


UNREADABLE = "{folder}/result.json or a file it names is missing, unreadable or damaged"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped bit": (_flip, "{folder}/tree.tar does not have the digest it was stored with"),
    "cut file": (
        lambda f: os.truncate(f / "tree.tar", 2),
        "{folder}/tree.tar does not have the digest it was stored with",
    ),
    "missing file": (lambda f: (f / "tree.tar").unlink(), UNREADABLE),
    "missing record": (lambda f: (f / RECORD).unlink(), UNREADABLE),
    "broken record": (_record('{"identity": "x", "fi'), UNREADABLE),
    "empty record": (_record(""), UNREADABLE),
    "record that is a list": (_record("[]"), UNREADABLE),
    "record without facts": (_record('{"identity": "x", "files": {}}'), UNREADABLE),
    "record whose files are a list": (_record('{"identity": "x", "facts": {}, "files": ["tree.tar"]}'), UNREADABLE),
    "record whose facts are a list": (_record('{"identity": "x", "facts": [], "files": {}}'), UNREADABLE),
    "record that is not UTF-8": (lambda f: (f / RECORD).write_bytes(b"\xff\xfe"), UNREADABLE),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_entry_is_a_miss_with_a_reason_and_can_be_replaced(tmp_path: Path, kind: str) -> None:
    store = Store(tmp_path / "store")
    _put(store, tmp_path / "work")
    folder = tmp_path / "store" / "compile" / KEY
    change, reason = BAD[kind]
    change(folder)
    assert store.get("compile", KEY) == (None, reason.format(folder=folder))
    again = _put(store, tmp_path / "work", "made anew", identity="new")
    assert again.identity == "new"
    assert store.get("compile", KEY) == (again, "")
    assert again.files["tree.tar"].read_text() == "made anew"
    assert _left(store) == []


def test_a_file_that_cannot_be_read_is_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    _put(store, tmp_path / "work")

    def fail(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(store_module, "sha256", fail)
    path = tmp_path / "store" / "compile" / KEY / "tree.tar"
    assert store.get("compile", KEY) == (None, f"{path} cannot be read: Permission denied")


def test_looking_does_not_read_the_files(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    _put(store, tmp_path / "work")
    _flip(tmp_path / "store" / "compile" / KEY)
    assert store.peek("compile", KEY) is not None


def test_the_first_of_two_results_stays(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first = _put(store, tmp_path / "work", "one", identity="first")
    assert _put(store, tmp_path / "work", "two", identity="second") == first
    assert first.files["tree.tar"].read_text() == "one"
    assert _left(store) == []


@pytest.mark.parametrize("spoilt", [False, True])
def test_many_put_under_one_key_at_once(tmp_path: Path, spoilt: bool) -> None:
    """Also where a bad entry is to be replaced: nobody may take away what another one has just made."""
    for turn in range(20):
        store = Store(tmp_path / f"store{turn}")
        if spoilt:
            _put(store, tmp_path / "work")
            _flip(store.root / "compile" / KEY)
        start = threading.Barrier(8)

        def put(number: int, store: Store = store, start: threading.Barrier = start, turn: int = turn) -> str:
            folder = tmp_path / f"work{turn}-{number}"
            folder.mkdir()
            start.wait()
            result = _put(store, folder, "alike")
            return result.files["tree.tar"].read_text()

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(put, range(8))) == ["alike"] * 8
        result, bad = store.get("compile", KEY)
        assert (result is not None, bad) == (True, "")
        assert _left(store) == []


def test_drop_forgets(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    _put(store, tmp_path / "work")
    store.drop("compile", KEY)
    assert store.get("compile", KEY) == (None, "")
    store.drop("compile", KEY)


def test_scratch_is_removed_also_on_error(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(RuntimeError, match=r"^boom$"), store.scratch() as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("x")
        assert folder.parent == store.root
        raise RuntimeError("boom")
    assert _left(store) == []


def test_a_put_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(FileNotFoundError):
        store.put("compile", KEY, identity="i", facts={}, files={"a": tmp_path / "absent"})
    assert store.get("compile", KEY) == (None, "")
    assert _left(store) == []


def test_sweep_removes_only_what_dead_owners_left(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    _put(store, tmp_path / "work")
    me = RunId.current()
    dead = RunId(machine=me.machine, pid=me.pid, started=str(int(me.started) - 1))
    elsewhere = RunId(machine="f" * 16, pid=1, started="1")
    names = {
        f".new-{dead.text}-abc": False,
        f".new-{dead.text}-d_f": False,
        f".new-{me.text}-abc": True,
        f".new-{elsewhere.text}-abc": True,
        ".new-nonsense": True,
    }
    for name in names:
        (store.root / name).mkdir()
        (store.root / name / "file").write_text("x")
    assert store.sweep() == 2
    assert {name: (store.root / name).exists() for name in names} == names
    assert store.get("compile", KEY)[0] is not None


def test_sweep_of_a_store_that_is_not_there(tmp_path: Path) -> None:
    assert Store(tmp_path / "absent").sweep() == 0


def test_an_owner_is_gone_when_its_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    me = RunId.current()
    assert RunId.parse(me.text) == me
    assert not me.gone()
    assert RunId(machine=me.machine, pid=me.pid, started="1").gone(), "the id was given out again"
    assert RunId(machine=me.machine, pid=2**22 + 1, started="1").gone(), "no such process"
    assert not RunId(machine="0" * 16, pid=2**22 + 1, started="1").gone(), "of other machines nothing is known"
    monkeypatch.setattr(ended_runs, "machine_id", lambda: "0" * 16)
    assert not me.gone()


def test_an_owner_is_gone_after_its_machine_has_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    me = RunId.current()
    again = me.machine[:8] + "0" * 8
    assert again != me.machine
    monkeypatch.setattr(ended_runs, "machine_id", lambda: again)
    assert me.gone()


@pytest.mark.parametrize("kind", ["in a container", "without an id", "with one"])
def test_a_machine_is_known_again_by_its_own_id(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image's machine-id is that of all containers made from it, whose processes are strangers to each other."""
    for name, file in {"MACHINE": "id", "BOOT": "boot", "NAMESPACE": "ns"}.items():
        monkeypatch.setattr(ended_runs, name, str(tmp_path / file))
    (tmp_path / "ns").symlink_to("pid:[4026532000]" if kind == "in a container" else ended_runs.FIRST_NAMESPACE)
    if kind != "without an id":
        (tmp_path / "id").write_text("an id\n")
    found = []
    for boot in ("first", "second"):
        (tmp_path / "boot").write_text(f"{boot}\n")
        found.append(ended_runs.machine_id())
    assert [len(machine) for machine in found] == [16, 16]
    assert found[0][8:] != found[1][8:]
    assert (found[0][:8] == found[1][:8]) == (kind == "with one")


@pytest.mark.parametrize("text", ["", "a", "a-b-c", "a-1", "-1-2", "a-1-", "a-1-x", "a-1-2-3"])
def test_what_is_no_owner(text: str) -> None:
    assert RunId.parse(text) is None


# ---- files


@pytest.mark.parametrize("data", ["grüße\n", b"\x00\xff", ""])
def test_write_atomically(tmp_path: Path, data: bytes | str) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_atomically(path, data)
    write_atomically(path, data)
    assert path.read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_keeps_the_old_content_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises((OSError, FullDiskError), match=r"(?i)no space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_sha256_reads_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * ((1 << 20) + 7))
    assert sha256(path) == digest(b"x" * ((1 << 20) + 7))


IN_THE_WAY: dict[str, Callable[[Path], object]] = {
    "a file": lambda path: path.write_text("x"),
    "an empty file": lambda path: path.touch(),
    "a link to nothing": lambda path: path.symlink_to("/nowhere/at/all"),
    "a link to a file": lambda path: path.symlink_to("/etc/hostname"),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("depth", ["entry", "stage"])
@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_what_is_in_the_place_of_an_entry_is_said_and_replaced(tmp_path: Path, kind: str, depth: str) -> None:
    store = Store(tmp_path / "store")
    place = store.root / "compile" / KEY if depth == "entry" else store.root / "compile"
    place.parent.mkdir(parents=True)
    IN_THE_WAY[kind](place)
    assert store.get("compile", KEY) == (None, f"{place} is not a folder")
    assert store.peek("compile", KEY) is None
    put = _put(store, tmp_path / "work")
    assert store.get("compile", KEY) == (put, "")
    assert _left(store) == []


def test_an_entry_may_be_a_link_to_a_folder_and_only_the_link_is_removed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    put = _put(store, tmp_path / "work")
    place = store.root / "compile" / KEY
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    assert store.get("compile", KEY) == (put, "")
    store.drop("compile", KEY)
    assert store.get("compile", KEY) == (None, "")
    assert (tmp_path / "elsewhere" / RECORD).is_file()


def test_a_record_nested_too_deep_is_a_miss(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    _put(store, tmp_path / "work")
    folder = tmp_path / "store" / "compile" / KEY
    (folder / RECORD).write_text("[" * 200_000)
    assert store.get("compile", KEY) == (None, UNREADABLE.format(folder=folder))


class TestMaking:
    def test_two_do_not_make_one_key_at_the_same_time(self, tmp_path: Path) -> None:
        first, second = Store(tmp_path / "store"), Store(tmp_path / "store")
        said = threading.Event()
        order: list[str] = []

        def make() -> None:
            with second.making("compile", KEY, said.set):
                order.append("second")

        with first.making("compile", KEY, lambda: None):
            thread = threading.Thread(target=make)
            thread.start()
            assert said.wait(30), "the wait is said"
            order.append("first")
        thread.join(30)
        assert order == ["first", "second"]
        assert list((tmp_path / "store").iterdir()) == []

    def test_control_different_keys_do_not_wait(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "store")
        with store.making("compile", KEY, pytest.fail), store.making("smoke", KEY, pytest.fail):
            pass

    def test_many_take_turns(self, tmp_path: Path) -> None:
        store, inside = Store(tmp_path / "store"), []
        most: list[int] = []

        def make(number: int) -> None:
            with store.making("compile", KEY, lambda: None):
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(make, range(60)))
        assert most == [1] * 60

    def test_a_wait_ends_when_the_run_is_interrupted(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "store")

        def wait() -> None:
            with store.making("compile", KEY, process.end_all):
                pytest.fail("it has the lock")

        with (
            store.making("compile", KEY, lambda: None),
            ThreadPoolExecutor(1) as pool,
            pytest.raises(HostError, match="interrupted"),
        ):
            pool.submit(wait).result(30)


def test_what_is_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    """Before any work is done, and not when its result is to be written."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    refuse_unwritable(tmp_path / "absent", tmp_path / "folder", tmp_path / "link")
    (tmp_path / "file").write_text("")
    (tmp_path / "lost").symlink_to("nowhere")
    for name, what in (("file", "not a folder"), ("lost", "a link that leads to no folder")):
        with pytest.raises(HostError) as caught:
            refuse_unwritable(tmp_path / name)
        assert caught.value.message == f"{tmp_path / name} is {what}"
        assert caught.value.hint == "move it away, or name another folder: --out, --dist"
