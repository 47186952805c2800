"""Which parts of the tests run in full."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import thorough
from guest.helpers import SHELLS


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("", set()),
        ("bare", {"bare"}),
        ("bare, readers", {"bare", "readers"}),
        ("all", set(get_args(thorough.Part))),
    ],
)
def test_the_variable_names_parts(monkeypatch: pytest.MonkeyPatch, value: str, parts: set[str]) -> None:
    monkeypatch.setenv(thorough.VARIABLE, value)
    assert {part for part in get_args(thorough.Part) if thorough.whole(part)} == parts


def test_a_part_that_does_not_exist_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(thorough.VARIABLE, "bare,reader")
    with pytest.raises(
        ValueError,
        match="there is no part reader: bare, standins, readers, fuzz, starts, allocators, audit, failures, turns, "
        "shells, defects, builds, survival, all",
    ):
        thorough.whole("bare")


def test_each_shell_has_a_turn() -> None:
    assert set(thorough.SHELLS) == set(SHELLS)
    assert {shell for number in range(3) for shell in set(SHELLS) - thorough.others_shells(number)} == set(SHELLS)


def test_each_member_of_a_part_has_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(thorough.VARIABLE, raising=False)
    seen = set()
    for number in range(4):
        monkeypatch.setattr(thorough, "turn", {"defects": number}.__getitem__)
        (one,) = thorough.one_of("defects", "abc")
        seen.add(one)
    assert seen == set("abc")
    monkeypatch.setenv(thorough.VARIABLE, "defects")
    assert thorough.one_of("defects", "abc") == ["a", "b", "c"]


def test_each_build_of_the_sample_has_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(thorough.VARIABLE, raising=False)
    seen = []
    for number in range(3):
        monkeypatch.setattr(thorough, "turn", {"builds": number}.__getitem__)
        seen.append((thorough.builds("bytes"), thorough.builds("image"), thorough.builds("defect")))
    assert sorted(seen) == [(False, False, True), (False, True, False), (True, False, False)]
    monkeypatch.setenv(thorough.VARIABLE, "builds")
    assert thorough.builds("bytes") and thorough.builds("image") and thorough.builds("defect")


def test_turns_are_of_runs_of_all_tests() -> None:
    folders = ("tests/unit", "tests/guest")
    assert thorough.is_plain(["tests/guest", str(thorough.ROOT / "tests/unit")], folders)
    assert not thorough.is_plain(["tests/unit"], folders)
    assert not thorough.is_plain(["tests/unit/test_thorough.py::test_x", "tests/guest"], folders)


def test_commits_of_a_branch_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def answers(shallow: str, count: str) -> None:
        said = {"rev-parse": f"{shallow}\n", "rev-list": f"{count}\n"}
        monkeypatch.setattr(subprocess, "run", lambda argv, **_: SimpleNamespace(stdout=said[argv[1]]))

    answers("false", "41")
    assert thorough.number() == 41
    answers("true", "1")
    thorough.turn.cache_clear()
    first = thorough.number()
    assert first > 1, "a history that was cut off says nothing"
    thorough.turn.cache_clear()


@pytest.mark.parametrize(
    ("nodeid", "part"),
    [
        ("tests/integration/test_twins.py::test_x", "test_twins"),
        ("tests/unit/plan/test_twins.py::test_x", None),
        ("tests/guest/test_operate_backup.py::test_x[dash]", "guest/test_operate_backup"),
        ("tests/integration/test_bare_machine.py::TestReadme::test_x", "test_bare_machine::TestReadme::*"),
    ],
)
def test_a_part_is_of_one_folder(nodeid: str, part: str | None) -> None:
    item = SimpleNamespace(path=Path(nodeid.partition("::")[0]), nodeid=nodeid)
    assert thorough.takes_turns(item) == part  # type: ignore[arg-type]
