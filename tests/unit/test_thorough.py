"""Which parts of the tests run in full."""

from __future__ import annotations

from math import prod
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


def test_each_module_that_takes_turns_is_there_and_has_a_turn() -> None:
    named = {module for shares in thorough.ROUNDS for share in shares for module in share}
    assert [name for name in named if not (thorough.ROOT / f"tests/integration/{name}.py").is_file()] == []
    run = [frozenset(named - thorough.others_turn(number)) for number in range(prod(map(len, thorough.ROUNDS)))]
    assert set().union(*run) == named
    assert len(set(run)) == len(run), "the turns of the rounds do not depend on one another"
    for modules in run:
        assert all(sum(set(share) <= modules for share in shares) == 1 for shares in thorough.ROUNDS)


def test_what_a_commit_has_changed_has_its_turn() -> None:
    every = range(prod(map(len, thorough.ROUNDS)))
    for shares in thorough.ROUNDS:
        first, last = shares[0][0], shares[-1][-1]
        assert all(first not in thorough.others_turn(number, {first, "test_errors"}) for number in every)
        left = [thorough.others_turn(number, {first, last}) & {first, last} for number in every]
        assert {frozenset(each) for each in left} == {frozenset({first}), frozenset({last})}, "one share of a round"
    assert [thorough.others_turn(number, {"test_errors"}) for number in every] == list(map(thorough.others_turn, every))


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
