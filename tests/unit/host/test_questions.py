"""Questions that are asked at the same time, and clocks of servers."""

from __future__ import annotations

import threading

import pytest

from pikaforge.errors import HostError
from pikaforge.host import questions
from pikaforge.host.questions import AT_ONCE, ahead_of, in_time, shown


def test_all_are_asked_and_a_failed_one_has_no_answer() -> None:
    def fails() -> int:
        raise HostError("gone")

    asked = {number: lambda number=number: number * 2 for number in range(3 * AT_ONCE)}
    assert in_time({**asked, "x": fails}, 60) == {number: number * 2 for number in range(3 * AT_ONCE)}
    assert in_time({}, 60) == {}


def test_they_run_at_the_same_time() -> None:
    meeting = threading.Barrier(AT_ONCE)
    assert len(in_time({number: lambda: meeting.wait(60) for number in range(AT_ONCE)}, 60)) == AT_ONCE


def test_one_that_is_silent_is_left_alone() -> None:
    never, answered = threading.Event(), threading.Event()

    def first() -> str:
        answered.set()
        return "here"

    def second() -> str:
        never.wait()
        return "late"

    try:
        assert in_time({"first": first, "second": second}, 0.2) in ({"first": "here"}, {})
        assert answered.wait(60)
    finally:
        never.set()


@pytest.mark.parametrize(
    ("headers", "ahead"),
    [
        ({"Date": "Thu, 01 Jan 1970 00:01:40 GMT"}, 900.0),
        ({"Date": "Thu, 01 Jan 1970 00:01:40 GMT", "Age": "850"}, 50.0),
        ({"Date": "Thu, 01 Jan 1970 00:01:40 GMT", "Age": "-3"}, 900.0),
        ({"Date": "Thu, 01 Jan 1970 00:01:40 GMT", "Age": "9" * 400}, 900.0),
        ({"Date": "yesterday"}, None),
        ({"Date": "Thu, 99 Jan 999999 00:01:40 GMT"}, None),
        ({}, None),
    ],
)
def test_the_clock_of_a_server(headers: dict[str, str], ahead: float | None) -> None:
    assert ahead_of(headers, 1000.0) == ahead


def test_what_is_shown_of_a_url() -> None:
    assert shown("https://user:secret@example.org:8443/a?token=secret") == "https://***@example.org:8443"
    assert questions.root_of("http://example.org/a/b") == "http://example.org/"
