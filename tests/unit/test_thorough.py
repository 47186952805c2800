"""Which parts of the tests run in full."""

from __future__ import annotations

from typing import get_args

import pytest
import thorough


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
        ValueError, match="there is no part reader: bare, standins, readers, fuzz, starts, allocators, audit, all"
    ):
        thorough.whole("bare")
