"""The limit of what might hang."""

from __future__ import annotations

import threading

import pytest
from limits import within


def test_what_ends_in_time_returns_or_raises_as_ever() -> None:
    assert within(30, lambda: 5) == 5
    with pytest.raises(TimeoutError, match="its own"):
        within(30, lambda: _raise(TimeoutError("its own")))


def _raise(error: Exception) -> None:
    raise error


def test_what_does_not_end_fails() -> None:
    ended = threading.Event()
    with pytest.raises(pytest.fail.Exception, match=r"did not end within 0\.05 s"):
        within(0.05, ended.wait)
    ended.set()
