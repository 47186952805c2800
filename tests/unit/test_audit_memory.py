"""What the audit has found in the same bytes is kept for one test run."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import audit_memory
import pytest

from pikaforge.audit.isa.dispatch import known


@pytest.fixture
def calls() -> list[tuple[object, ...]]:
    return []


def test_the_same_bytes_are_searched_once_and_others_anew(tmp_path: Path, calls: list[tuple[object, ...]]) -> None:
    def search(path: Path, pieces: Iterable[tuple[int, int]], *, work: int = 1) -> dict[tuple[int, int], str]:
        found = dict.fromkeys(pieces, path.read_text())
        calls.append((path.name, work, *found))
        return found

    (folder := tmp_path / "kept").mkdir()
    kept = audit_memory.kept(search, folder)
    for name, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).write_text(text)

    def pieces() -> Iterator[tuple[int, int]]:
        yield 1, 2

    assert kept(tmp_path / "a", pieces()) == kept(tmp_path / "b", [(1, 2)]) == {(1, 2): "one"}
    assert kept(tmp_path / "c", pieces()) == {(1, 2): "two"}
    assert kept(tmp_path / "b", [(1, 3)]) == {(1, 3): "one"}
    assert kept(tmp_path / "b", [(1, 2)], work=2) == {(1, 2): "one"}
    assert calls == [("a", 1, (1, 2)), ("c", 1, (1, 2)), ("b", 1, (1, 3)), ("b", 2, (1, 2))]
    assert len(list(folder.iterdir())) == len(calls)


def test_each_known_dispatcher_has_a_key_of_its_own() -> None:
    """Else the search in its library would be made anew each time, and nobody would see it."""
    entries = known.table()
    assert len({audit_memory.key(entry) for entry in entries}) == len(set(entries)) > 1


def test_what_has_no_key_is_not_kept(tmp_path: Path) -> None:
    kept = audit_memory.kept(lambda path, what: str(what)[:2], tmp_path / "nowhere")
    (tmp_path / "a").touch()
    assert kept(tmp_path / "a", object()) == "<o"


def test_a_key_has_all_of_its_parts() -> None:
    one = audit_memory.key("f", array("Q", [1, 2]), {2: frozenset({"b", "a"}), 1: frozenset()}, None)
    assert one == audit_memory.key("f", array("Q", [1, 2]), {1: frozenset(), 2: frozenset({"a", "b"})}, None)
    assert one != audit_memory.key("f", array("Q", [1, 3]), {1: frozenset(), 2: frozenset({"a", "b"})}, None)
    assert one != audit_memory.key("f", array("Q", [1, 2]), {1: frozenset(), 2: frozenset({"a"})}, None)
    with pytest.raises(TypeError, match="no key for object"):
        audit_memory.key(object())


def test_only_processes_that_fork_the_tool_keep_it() -> None:
    assert not any(hasattr(vars(module)[name], "__wrapped__") for module, name in audit_memory.SEARCHES)
