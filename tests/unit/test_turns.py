"""Which of the long tests a commit runs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import turns

TESTS = Path(turns.__file__).parent
EVERY = range(len(turns.shares()))


def names(path: Path) -> list[str]:
    """The tests of a module, as their ids have them."""
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.append(node.name)
        elif isinstance(node, ast.ClassDef):
            found += [f"{node.name}::{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)]
    return [name for name in found if name.rpartition("::")[2].startswith("test_")]


@pytest.mark.parametrize("module", sorted({turns.module(part) for part in turns.PARTS}))
def test_what_is_named_is_there(module: str) -> None:
    """A pattern of parameters' names, which begins with a star, is looked for in the module's text."""
    path = TESTS / f"{module if '/' in module else f'integration/{module}'}.py"
    tests = {turns.part_of(module, name) for name in names(path)}
    for part in turns.PARTS:
        pattern = part.partition("::")[2]
        if turns.module(part) == module and pattern.startswith("*"):
            assert pattern.strip("*") in path.read_text(encoding="utf-8")
        elif turns.module(part) == module:
            assert part in tests


def test_the_part_whose_pattern_fits_has_a_test() -> None:
    assert turns.part_of("test_allocators", "test_x[libunwind-libunwind]") == "test_allocators::*libunwind*"
    assert turns.part_of("test_allocators", "test_x[none]") == "test_allocators"
    assert turns.part_of("test_errors", "test_x") is None


def test_shares_have_all_parts_once_and_cost_about_the_same() -> None:
    shares = turns.shares()
    assert sorted(part for share in shares for part in share) == sorted(turns.PARTS)
    assert all(turns.cost(share) <= turns.SHARE for share in shares if len(share) > 1)
    assert turns.shares({"a": 5, "b": 3, "c": 2, "d": 1}, 4) == [["a"], ["b"], ["c", "d"]]


def test_each_part_has_its_turn_whatever_commits_change() -> None:
    for changed in (frozenset[str](), frozenset({"test_farm", "test_guides", "test_ansible"})):
        for first in (0, 1000):
            assert {part for number in EVERY for part in turns.run_by(first + number, changed)} == set(turns.PARTS)
    half = range(len(EVERY) // 2 + 1)
    assert len({part for number in half for part in turns.run_by(number)}) > len(turns.PARTS) * 0.7


def test_what_a_commit_has_changed_runs_as_far_as_there_is_room() -> None:
    for number in EVERY:
        assert "test_twins" in turns.run_by(number, {"test_twins", "test_errors"})
        assert "guest/test_operate_backup" in turns.run_by(number, {"test_operate_backup"})
        assert turns.run_by(number, {"test_errors"}) == turns.run_by(number)
    everything = {turns.module(part) for part in turns.PARTS}
    first = {next(part for part in turns.run_by(n, everything) if part not in turns.shares()[n]) for n in EVERY}
    assert len(first) > len(EVERY) / 2, "they take turns, too"


def test_a_run_stays_within_the_budget() -> None:
    for number in EVERY:
        run = turns.run_by(number)
        assert len(run) == len(set(run))
        assert turns.cost(run) <= turns.BUDGET
        changed = turns.run_by(number, {turns.module(part) for part in turns.PARTS})
        assert turns.cost(changed) <= turns.BUDGET + max(turns.PARTS.values())
