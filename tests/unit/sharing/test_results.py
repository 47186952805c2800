"""A shared result is taken whole and as it was signed, or not at all; a store that fails is a notice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unit.sharing_parts import KEY, OTHER, Built, Machine, MarkSeals, MemoryObjects, fails

from pikaforge.errors import FullDiskError, ProgramError
from pikaforge.host import disk, process
from pikaforge.host.hashing import digest
from pikaforge.host.store import Result
from pikaforge.sharing import results as results_module
from pikaforge.sharing.listing import LIMIT, path_of, path_of_file

LISTING = path_of("compile", KEY)
FILE = path_of_file(digest("a tree"))


@pytest.fixture
def objects() -> MemoryObjects:
    return MemoryObjects()


@pytest.fixture
def first(tmp_path: Path, objects: MemoryObjects) -> Machine:
    """A machine that has put a result into the store."""
    machine = Machine(tmp_path / "first", objects)
    assert machine.shared.offer(machine.make())
    return machine


@pytest.fixture
def second(tmp_path: Path, objects: MemoryObjects) -> Machine:
    return Machine(tmp_path / "second", objects)


def test_what_one_machine_makes_another_one_takes(first: Machine, second: Machine, objects: MemoryObjects) -> None:
    taken = second.fetch()
    made = first.store.peek("compile", KEY)
    assert taken is not None and made is not None
    assert (taken.identity, taken.facts) == (made.identity, made.facts)
    assert taken.files["tree.tar"].read_text() == "a tree"
    assert taken.files["tree.tar"].is_relative_to(second.store.root)
    assert second.store.get("compile", KEY) == (taken, "")
    assert (made.origin, taken.origin) == ("", "memory://store")
    assert set(objects.held) == {LISTING, FILE}
    assert (first.notices, second.notices) == ([], [])
    assert (first.shared.counts.put, second.shared.counts.taken) == (1, 1)


def test_the_listing_is_written_last(first: Machine, objects: MemoryObjects) -> None:
    assert [path for method, path in objects.asked if method == "write"] == [FILE, LISTING]


def test_a_file_that_is_there_is_not_sent_again(first: Machine, objects: MemoryObjects) -> None:
    objects.asked.clear()
    first.shared.offer(first.make(key=OTHER))
    assert [path for method, path in objects.asked if method == "write"] == [path_of("compile", OTHER)]


def test_what_is_there_may_stay(first: Machine, objects: MemoryObjects) -> None:
    objects.asked.clear()
    assert first.shared.offer(first.make(), replace=False)
    assert objects.asked == [("size", LISTING)]


def test_what_is_not_there_is_a_plain_miss(second: Machine) -> None:
    assert second.fetch() is None
    assert (second.notices, second.left()) == ([], [])


def change(objects: MemoryObjects, **changes: Any) -> None:
    """Change the statement of the listing, and its digest; what is None is left out."""
    listing = json.loads(objects.held[LISTING])
    statement = json.loads(listing["statement"]) | changes
    listing["statement"] = json.dumps({name: value for name, value in statement.items() if value is not None})
    listing["sha256"] = digest(listing["statement"])
    objects.held[LISTING] = json.dumps(listing).encode()


def entry(**changes: Any) -> list[dict[str, Any]]:
    return [{"name": "tree.tar", "sha256": digest("a tree"), "bytes": 6} | changes]


CHANGES: dict[str, dict[str, Any]] = {
    "another key": {"key": OTHER},
    "another stage": {"stage": "source"},
    "no stage": {"stage": None},
    "a format of the future": {"format": 2},
    "another kind": {"kind": "in-toto"},
    "a path for a name": {"files": entry(name="../../etc/passwd")},
    "an absolute path": {"files": entry(name="/etc/passwd")},
    "a hidden name": {"files": entry(name=".lock")},
    "the store's own name": {"files": entry(name="result.json")},
    "an empty name": {"files": entry(name="")},
    "a name with a control character": {"files": entry(name="a\x1b[31m")},
    "a long name": {"files": entry(name="x" * 201)},
    "one name twice": {"files": entry() + entry()},
    "more files than there may be": {"files": [entry(name=f"f{n}")[0] for n in range(101)]},
    "a negative size": {"files": entry(bytes=-1)},
    "a size that is a text": {"files": entry(bytes="6")},
    "a huge size": {"files": entry(bytes=1 << 30)},
    "a size beyond numbers": {"files": entry(bytes=10**30)},
    "one byte too few": {"files": entry(bytes=5)},
    "one byte too many": {"files": entry(bytes=7)},
    "a path for a digest": {"files": entry(sha256="../" + "0" * 61)},
    "another digest": {"files": entry(sha256="0" * 64)},
    "capital letters in a digest": {"files": entry(sha256=digest("a tree").upper())},
    "facts of another model": {"facts": {"other": 1}},
    "facts of another type": {"facts": {"note": 1}},
    "facts with more": {"facts": {"note": "made", "numbers": [1, 2], "more": True}},
    "facts that are a list": {"facts": []},
    "facts with escapes for terminals": {"facts": {"note": "\x1b]0;title\x07"}},
    "facts with a bidirectional override": {"facts": {"note": "a\u202eb"}},
    "an identity with a control character": {"identity": "a\nb"},
    "an identity without an end": {"identity": "x" * 1000},
    "a field that is not known": {"more": 1},
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_hostile_statement_is_refused_with_a_reason(
    first: Machine, second: Machine, objects: MemoryObjects, kind: str
) -> None:
    change(objects, **CHANGES[kind])
    assert second.fetch() is None
    [notice] = second.notices
    assert notice.startswith(f"what the shared store memory://store has under compile/{KEY} is not taken: ")
    assert notice.isprintable()
    assert second.left() == []
    assert second.shared.counts.refused == 1
    assert second.shared.offer(second.make()), "it is made here, and takes the place of the bad one"
    assert Machine(second.folder.parent / "third", objects).fetch() is not None


LISTINGS: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"\xff\xfe\x00",
    "a list": b"[]",
    "no statement": b"{}",
    "a statement that is no text": b'{"statement": {}}',
    "a statement that is no JSON": b'{"statement": "{"}',
    "a field that is not known": b'{"statement": "{}", "more": 1}',
    "half a surrogate": b'{"statement": "\\ud800"}',
    "depth": b'{"statement": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "depth in the statement": json.dumps({"statement": '{"facts":' + "[" * 5000}).encode(),
    "values": b'{"statement": [' + b"1," * 90_000 + b"1]}",
    "values in the statement": json.dumps({"statement": '{"facts":{"x":[' + "1," * 90_000}).encode(),
    "a signature without an end": json.dumps({"statement": "{}", "signature": "x" * 100_000}).encode(),
}


@pytest.mark.parametrize("kind", LISTINGS)
def test_a_hostile_listing_is_refused_with_a_reason(second: Machine, objects: MemoryObjects, kind: str) -> None:
    objects.held[LISTING] = LISTINGS[kind]
    assert second.fetch() is None
    [notice] = second.notices
    assert "is not taken: " in notice
    assert notice.isprintable()
    assert second.left() == []


def test_a_listing_that_is_cut_anywhere_is_refused(first: Machine, second: Machine, objects: MemoryObjects) -> None:
    whole = objects.held[LISTING]
    for end in range(len(whole)):
        objects.held[LISTING] = whole[:end]
        assert second.fetch() is None, end
    assert len(second.notices) == len(whole)
    assert second.left() == []


def test_a_file_that_is_cut_or_changed_anywhere_is_refused(
    first: Machine, second: Machine, objects: MemoryObjects
) -> None:
    whole = objects.held[FILE]
    bad = [whole[:end] for end in range(len(whole))] + [whole + b"x", whole * 1000]
    bad += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for data in bad:
        objects.held[FILE] = data
        assert second.fetch() is None, data
    assert all("does not have the digest of its name" in notice for notice in second.notices)
    assert second.left() == []


def test_a_damaged_file_is_sent_again(first: Machine, second: Machine, objects: MemoryObjects) -> None:
    objects.held[FILE] = b"A tree"  # of the right size
    assert second.fetch() is None
    assert second.shared.offer(second.make())
    assert objects.held[FILE] == b"a tree"


def test_a_file_that_is_gone_is_refused(first: Machine, second: Machine, objects: MemoryObjects) -> None:
    del objects.held[FILE]
    assert second.fetch() is None
    assert second.notices[0].endswith("is not taken: the file tree.tar is gone")


def test_what_the_stage_does_not_take_is_refused(first: Machine, second: Machine) -> None:
    def unfit(found: Result) -> str:
        assert found.files["tree.tar"].read_text() == "a tree"
        return "there is a device in it"

    assert second.fetch(unfit=unfit) is None
    assert second.notices[0].endswith("is not taken: there is a device in it")
    assert second.left() == []


def test_what_leaves_no_room_is_refused(first: Machine, second: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def room(what: str, folder: Path) -> disk.Space:
        return disk.Space(what=what, folder=folder, free=1000)

    monkeypatch.setattr(results_module, "room", room)
    assert second.fetch() is None
    assert "leave no room on the disk" in second.notices[0]


def test_a_disk_that_gets_full_ends_the_run(first: Machine, second: Machine, objects: MemoryObjects) -> None:
    def full(_path: str) -> None:
        raise OSError(28, "No space left on device")

    objects.fails["download"] = full
    with pytest.raises(FullDiskError):
        second.fetch()
    assert second.left() == []


def test_a_summary_counts_since_the_last_one(first: Machine, second: Machine, objects: MemoryObjects) -> None:
    assert first.shared.summary() == "the shared store memory://store: 1 result put there"
    assert first.shared.summary() == ""
    second.fetch()
    second.shared.offer(second.make("another", key=OTHER))
    objects.held[LISTING] = b""
    second.store.drop("compile", KEY)
    second.fetch()
    assert second.shared.summary() == (
        "the shared store memory://store: 1 result taken from it, 1 result put there, 1 result refused"
    )


# ---- signatures


def signed(tmp_path: Path, objects: MemoryObjects, word: str) -> Machine:
    machine = Machine(tmp_path / word, objects, MarkSeals(word))
    assert machine.shared.offer(machine.make())
    return machine


def test_what_a_trusted_key_signed_is_taken(tmp_path: Path, objects: MemoryObjects) -> None:
    signed(tmp_path, objects, "ann")
    assert Machine(tmp_path / "reader", objects, MarkSeals("", "bob", "ann")).fetch() is not None


@pytest.mark.parametrize(("word", "why"), [("", "it is not signed"), ("mallory", "it is by a stranger")])
def test_anything_else_is_not(tmp_path: Path, objects: MemoryObjects, word: str, why: str) -> None:
    machine = Machine(tmp_path / "writer", objects, MarkSeals(word))
    machine.shared.offer(machine.make())
    reader = Machine(tmp_path / "reader", objects, MarkSeals("", "ann"))
    objects.asked.clear()
    assert reader.fetch() is None
    assert reader.notices[0].endswith(f"is not taken: {why}")
    assert objects.methods() == ["read"], "no file is asked for"


def test_a_signed_result_in_the_place_of_another_one_is_refused(tmp_path: Path, objects: MemoryObjects) -> None:
    machine = signed(tmp_path, objects, "ann")
    machine.shared.offer(machine.make("another tree", key=OTHER))
    objects.held[path_of("compile", OTHER)] = objects.held[LISTING]
    objects.held[path_of("source", KEY)] = objects.held[LISTING]
    reader = Machine(tmp_path / "reader", objects, MarkSeals("", "ann"))
    assert reader.fetch(key=OTHER) is None
    assert reader.fetch(stage="source") is None
    assert [notice.rpartition(": ")[2] for notice in reader.notices] == [f"it is of another result, compile/{KEY}"] * 2


@pytest.mark.parametrize("kind", CHANGES)
def test_a_statement_that_was_changed_is_not_what_was_signed(tmp_path: Path, objects: MemoryObjects, kind: str) -> None:
    signed(tmp_path, objects, "ann")
    change(objects, **CHANGES[kind])
    reader = Machine(tmp_path / "reader", objects, MarkSeals("", "ann"))
    assert reader.fetch() is None
    assert reader.notices[0].endswith("is not taken: it is by a stranger")


def test_where_signatures_are_wanted_who_cannot_sign_puts_nothing_there(tmp_path: Path, objects: MemoryObjects) -> None:
    machine = Machine(tmp_path / "reader", objects, MarkSeals("", "ann"))
    assert not machine.shared.writes
    assert machine.shared.offer(machine.make()) is False
    assert (objects.asked, machine.notices) == ([], [])
    stranger = Machine(tmp_path / "stranger", objects, MarkSeals("mallory", "ann"))
    assert stranger.shared.offer(stranger.make()) is False
    assert stranger.shared.offer(stranger.make(key=OTHER)) is False
    assert objects.held == {}
    why = "nobody would take what this machine signs: it is by a stranger"
    assert stranger.notices == [f"the shared store memory://store: {why}; it gets nothing more in this run"]
    builder = Machine(tmp_path / "builder", objects, MarkSeals("ann", "ann", "bob"))
    assert builder.shared.offer(builder.make())


# ---- a store that fails


def test_a_store_that_is_out_of_reach_is_one_notice_and_is_not_asked_again(
    second: Machine, objects: MemoryObjects
) -> None:
    objects.fails["read"] = fails(ends=True, reason="nobody answers\x1b[1m")
    assert second.fetch() is None
    assert second.fetch(key=OTHER) is None
    assert second.shared.offer(second.make()) is False
    assert objects.methods() == ["read"]
    assert second.notices == [
        "the shared store memory://store is not used in this run: nobody answers\\x1b[1m",
    ]


def test_a_file_that_cannot_be_read_does_not_end_it(first: Machine, second: Machine, objects: MemoryObjects) -> None:
    objects.fails["download"] = fails(ends=False, reason="cut off")
    assert second.fetch() is None
    assert second.notices == [f"the shared store memory://store: compile/{KEY} cannot be read: cut off"]
    del objects.fails["download"]
    assert second.fetch() is not None


def test_a_store_that_takes_nothing_is_read_on(first: Machine, second: Machine, objects: MemoryObjects) -> None:
    objects.fails["write"] = fails(ends=True, reason="403 Forbidden")
    assert second.shared.offer(second.make("another", key=OTHER)) is False
    assert second.shared.offer(second.make("a third", key="e" * 32)) is False
    notice = f"compile/{OTHER} cannot be put there: 403 Forbidden; it gets nothing more in this run"
    assert second.notices == [f"the shared store memory://store: {notice}"]
    assert second.fetch() is not None


def test_an_upload_that_fails_leaves_no_listing(tmp_path: Path, objects: MemoryObjects, second: Machine) -> None:
    def dies(path: str) -> None:
        if path == LISTING:
            fails(ends=True)(path)

    objects.fails["write"] = dies
    machine = Machine(tmp_path / "first", objects)
    assert machine.shared.offer(machine.make()) is False
    assert LISTING not in objects.held
    assert (second.fetch(), second.notices) == (None, [])


def test_a_read_only_machine_writes_nothing(tmp_path: Path, first: Machine, objects: MemoryObjects) -> None:
    machine = Machine(tmp_path / "reader", objects, write=False)
    objects.asked.clear()
    assert machine.fetch() is not None
    assert machine.shared.offer(machine.make("another", key=OTHER)) is False
    assert (set(objects.methods()), machine.notices) == ({"read", "download"}, [])


def test_what_readers_would_refuse_is_not_put_there(tmp_path: Path, objects: MemoryObjects) -> None:
    machine = Machine(tmp_path / "first", objects)
    assert machine.shared.offer(machine.make(note="a\x1b[31m")) is False
    assert machine.shared.offer(machine.make(key=OTHER, name="a name with blanks")) is False
    assert machine.shared.offer(machine.make(key="e" * 32, note="x" * LIMIT)) is False
    assert objects.held.keys().isdisjoint({LISTING, path_of("compile", OTHER), path_of("compile", "e" * 32)})
    assert len(machine.notices) == 3


@pytest.mark.parametrize("method", ["read", "write"])
def test_an_interrupted_run_is_no_error_of_the_store(
    first: Machine, second: Machine, objects: MemoryObjects, method: str
) -> None:
    def interrupted(_path: str) -> None:
        process.end_all()
        process.pause(0)

    objects.fails[method] = interrupted
    act: Callable[[], object] = second.fetch if method == "read" else lambda: second.shared.offer(second.make())
    with pytest.raises(ProgramError, match="interrupted"):
        act()
    assert second.notices == []


def test_a_record_has_the_small_files_only(tmp_path: Path) -> None:
    objects = MemoryObjects()
    one, two = Machine(tmp_path / "one", objects), Machine(tmp_path / "two", objects)
    one.shared.offer(one.make("x" * 5000))
    found = two.shared.record("compile", KEY, facts=Built, into=tmp_path / "records")
    assert found is not None and found.read(Built).note == "made"
    assert not found.files["tree.tar"].exists() and found.origin
    one.shared.offer(one.make("small", key=OTHER, name="note"))
    found = two.shared.record("compile", OTHER, facts=Built, into=tmp_path / "records")
    assert found is not None and found.files["note"].read_text() == "small"
    assert two.store.peek("compile", OTHER) is None, "nothing is stored here"


def test_a_record_is_judged_as_a_result_is(tmp_path: Path) -> None:
    objects = MemoryObjects()
    one, two = Machine(tmp_path / "one", objects), Machine(tmp_path / "two", objects, seals=MarkSeals("", "trusted"))
    one.shared.offer(one.make())
    assert two.shared.record("compile", KEY, facts=Built, into=tmp_path / "records") is None
    assert "it is not signed" in two.notices[-1]
    assert two.shared.record("compile", OTHER, facts=Built, into=tmp_path / "records") is None
    objects.fails["read"] = fails(ends=True)
    three = Machine(tmp_path / "three", objects)
    assert three.shared.record("compile", KEY, facts=Built, into=tmp_path / "records") is None


def test_a_bit_of_a_listing_is_wrong(first: Machine, second: Machine, objects: MemoryObjects) -> None:
    """Without a signature, too: facts and identity decide as much as files do."""
    whole = objects.held[LISTING]
    for bit in range(0, len(whole) * 8, 3):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        objects.held[LISTING] = bytes(data)
        assert second.fetch() is None, bit
    assert second.left() == []


def test_what_was_not_taken_is_replaced(first: Machine, second: Machine, objects: MemoryObjects) -> None:
    """Also by one who would leave what is there, as the workers of a farm do."""
    whole = dict(objects.held)
    for path in (LISTING, FILE):
        objects.held[path] = whole[path][:-1] + b"x"
        assert second.fetch() is None
        assert second.shared.offer(second.make(), replace=False)
        assert objects.held == whole
    objects.asked.clear()
    assert second.shared.offer(second.make(), replace=False)
    assert objects.asked == [("size", LISTING)], "it is good now"


# ---- a page that answers for everything


class Portal(MemoryObjects):
    """It takes whatever it is sent, and answers all with a page."""

    def read(self, path: str, *, limit: int) -> bytes | None:
        self._ask("read", path)
        return b"<html>log in</html>"

    def size(self, path: str) -> int | None:
        self._ask("size", path)
        return 19


def test_a_page_that_answers_for_everything_is_not_asked_again(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "one", Portal())
    for number in range(3 * results_module.REFUSALS):
        assert machine.fetch(key=f"{number:032x}") is None
    assert machine.objects.methods() == ["read"] * results_module.REFUSALS
    assert machine.notices[-1] == (
        "the shared store memory://store is not used in this run: it has nothing that can be taken"
    )
    assert len(machine.notices) == results_module.REFUSALS + 1
    assert not machine.shared.offer(machine.make())


def test_what_takes_everything_and_keeps_nothing_gets_nothing_more(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "one", Portal())
    assert not machine.shared.offer(machine.make())
    assert not machine.shared.offer(machine.make(key=OTHER))
    [notice] = machine.notices
    assert notice.endswith(f"compile/{KEY} was put there, and is not there; it gets nothing more in this run")
    assert machine.shared.counts.put == 0


def test_a_store_with_damaged_results_is_used_on(first: Machine, second: Machine, objects: MemoryObjects) -> None:
    """One that was taken, or put there, shows that it is a store."""
    assert second.fetch() is not None
    for number in range(3 * results_module.REFUSALS):
        objects.held[path_of("compile", f"{number:032x}")] = b"damaged"
        assert second.fetch(key=f"{number:032x}") is None
    assert second.shared.offer(second.make(key=f"{0:032x}"))
    assert first.fetch(key=f"{0:032x}") is not None
