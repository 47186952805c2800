"""Waivers: what they cover, and that none outlives its day or its need."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from pikaforge.audit.waivers import Ledger
from pikaforge.config.waiver import Waiver

TODAY = date(2026, 6, 15)
GOOD: dict[str, Any] = {
    "file": "lib/libzstd.so.*",
    "function": "*_bmi2",
    "features": ("bmi2", "lzcnt"),
    "reason": "ZSTD_cpuSupportsBmi2() is asked at run time",
    "expires": "2026-12-31",
}


def waiver(**more: Any) -> Waiver:
    return Waiver.model_validate({**GOOD, **more})


def ledger(*waivers: Waiver, image: str = "debian12", target: str = "sandybridge") -> Ledger:
    return Ledger(waivers, today=TODAY, image=image, target=target)


@pytest.mark.parametrize(
    ("file", "function", "feature", "yes"),
    [
        ("lib/libzstd.so.1", "HUF_decompress_bmi2", "bmi2", True),
        ("lib/libzstd.so.1", "HUF_decompress_bmi2", "lzcnt", True),
        ("lib/libzstd.so.1", "HUF_decompress_bmi2", "avx2", False),
        ("lib/libzstd.so.1", "HUF_decompress", "bmi2", False),
        ("lib/libz.so.1", "HUF_decompress_bmi2", "bmi2", False),
        ("LIB/LIBZSTD.so.1", "HUF_decompress_bmi2", "bmi2", False),
    ],
)
def test_what_a_waiver_covers(file: str, function: str, feature: str, yes: bool) -> None:
    assert (ledger(waiver()).covering(file, function, feature) is not None) is yes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": ("avx22",)}, "did you mean avx2"),
        ({"features": ()}, "at least 1"),
        ({"file": "*"}, "not everything"),
        ({"function": "**"}, "not everything"),
        ({"function": "[!*]"}, "not everything"),
        ({"function": "[*"}, "not everything"),
        ({"function": ""}, "at least 1"),
        ({"reason": "because"}, "at least 10"),
        ({"expires": "2026-13-01"}, "month"),
        ({"expires": "31.12.2026"}, "pattern"),
        ({"expire": "2026-01-01"}, "Extra"),
    ],
)
def test_what_is_no_waiver(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        waiver(**change)


def test_a_used_waiver_is_no_problem() -> None:
    held = ledger(waiver())
    held.covering("lib/libzstd.so.1", "x_bmi2", "bmi2")
    books = held.close()
    assert (books.problems, books.used) == ((), (waiver(),))
    assert books.notes == ("waiver for bmi2, lzcnt in *_bmi2 of lib/libzstd.so.*: nothing needs lzcnt",)


def test_an_unused_waiver_is_a_problem_of_a_tree_of_ours() -> None:
    assert "is unused: remove it" in ledger(waiver()).close().problems[0]
    assert not ledger(waiver()).close(demand_use=False).problems


@pytest.mark.parametrize(("day", "holds"), [("2026-06-14", False), ("2026-06-15", True)])
def test_an_expired_waiver_covers_nothing_and_is_a_problem(day: str, holds: bool) -> None:
    held = ledger(waiver(expires=day))
    assert (held.covering("lib/libzstd.so.1", "x_bmi2", "bmi2") is not None) is holds
    problems = held.close().problems
    assert bool(problems) is not holds
    if problems:
        assert "expired on 2026-06-14" in problems[0]
        foreign = held.close(demand_use=False)
        assert (foreign.problems, foreign.notes) == ((), problems), "files of others need no waiver of ours"


def test_waivers_of_other_images_and_targets_do_not_count() -> None:
    only = waiver(image="el*", target="sandybridge")
    assert ledger(only).close().problems == ()
    assert ledger(only, image="el7").close().problems
    assert ledger(only, image="el7", target="haswell").close().problems == ()


@pytest.mark.parametrize(
    ("glob", "allocator", "applies"),
    [
        ("*", "none", True),
        ("none", "none", True),
        ("none", "system", False),
        ("n*", "system", False),
        ("sys*", "system", True),
        ("System", "system", False),
        ("*", "", True),
        ("none", "", False),
    ],
)
def test_waivers_of_other_allocators_do_not_count(glob: str, allocator: str, applies: bool) -> None:
    made = [Ledger([waiver(allocator=glob)], today=TODAY, target="sandybridge", allocator=allocator) for _ in range(2)]
    assert bool(made[0].close().problems) is applies, "unused, if it is for this tree at all"
    assert (made[1].covering("lib/libzstd.so.1", "x_bmi2", "bmi2") is not None) is applies


def test_a_waiver_is_for_trees_that_fit_all_its_globs() -> None:
    only = waiver(image="el*", allocator="none")
    for image, allocator, applies in (("el7", "none", True), ("el7", "system", False), ("debian12", "none", False)):
        made = Ledger([only], today=TODAY, image=image, target="sandybridge", allocator=allocator)
        assert bool(made.close().problems) is applies, (image, allocator)


@pytest.mark.parametrize(
    ("has", "applies"),
    [
        (frozenset(), True),
        (frozenset({"bmi2"}), True),
        (frozenset({"lzcnt", "avx2"}), True),
        (frozenset({"bmi2", "lzcnt"}), False),
        (frozenset({"bmi2", "lzcnt", "avx2"}), False),
    ],
)
def test_a_waiver_for_what_the_target_has_all_of_is_not_needed_there(has: frozenset[str], applies: bool) -> None:
    made = Ledger([waiver()], today=TODAY, target="haswell", has=has)
    assert bool(made.close().problems) is applies
    old = Ledger([waiver(expires="2026-01-01")], today=TODAY, target="haswell", has=has)
    assert bool(old.close().problems) is applies, "nor does its end matter there"


def test_a_waiver_that_applies_covers_even_a_feature_that_the_target_has() -> None:
    """What the target has is no finding; the ledger need not know."""
    made = Ledger([waiver()], today=TODAY, target="haswell", has=frozenset({"bmi2"}))
    assert made.covering("lib/libzstd.so.1", "x_bmi2", "lzcnt") == waiver()
    assert made.close().problems == ()


def test_the_first_of_two_waivers_is_used() -> None:
    first, second = waiver(reason="the first of two reasons"), waiver(function="x_*")
    made = Ledger([first, second], today=TODAY, target="sandybridge")
    assert made.covering("lib/libzstd.so.1", "x_bmi2", "bmi2") == first
    books = made.close()
    assert books.used == (first,)
    assert books.problems == ("waiver for bmi2, lzcnt in x_* of lib/libzstd.so.* is unused: remove it",)
