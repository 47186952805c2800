"""Names that are like a mistyped word."""

from __future__ import annotations

import pytest

from pikaforge.config.nearest import KNOWN_LIMIT, WORD_LIMIT, did_you_mean, nearest

NAMES = ["debian11", "debian12", "el7", "el8"]


@pytest.mark.parametrize(
    ("word", "found"),
    [("debain12", ["debian12"]), ("EL7", ["el7"]), ("el70", ["el7"]), ("ubuntu", []), ("", [])],
)
def test_the_nearest_name(word: str, found: list[str]) -> None:
    assert nearest(word, NAMES) == found


def test_a_hint_has_three_names_at_most() -> None:
    assert did_you_mean("el9", NAMES) == "did you mean el8 or el7?"
    assert did_you_mean("R6", [f"R6{n}" for n in range(9)]).count(" or ") == 2
    assert did_you_mean("windows", NAMES) == ""


def test_what_would_take_long_is_not_compared() -> None:
    assert nearest("x" * WORD_LIMIT, ["x" * WORD_LIMIT]) != []
    assert nearest("x" * (WORD_LIMIT + 1), ["x" * (WORD_LIMIT + 1)]) == []
    assert nearest("name1", [f"name{n}" for n in range(KNOWN_LIMIT + 1)]) == []
