"""Limits for what might hang: a test fails at one, instead of waiting for the limit of the whole run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent import futures
from typing import TypeVar

import pytest

T = TypeVar("T")


def within(seconds: float, work: Callable[[], T]) -> T:
    """Run some work in a thread, and return or raise what it ends with. The test fails if it does not end in time."""
    future: futures.Future[T] = futures.Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  # the caller gets it
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    if not futures.wait([future], seconds).done:
        pytest.fail(f"it did not end within {seconds:g} s")
    return future.result()
