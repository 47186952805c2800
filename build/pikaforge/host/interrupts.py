"""Interrupts that can wait.

A signal ends a run by an exception in the first thread, after any of its instructions. If that were between the start
of a program and its entry in a list, nobody would end the program.
"""

from __future__ import annotations

import threading


class _First:
    """State of the first thread."""

    held = 0
    """Number of holds that are not released."""
    waiting: BaseException | None = None


def deliver(interrupt: BaseException) -> None:
    """Raise an interrupt, or let it wait for `release`. For handlers of signals, which run in the first thread.

    Raises:
        BaseException: `interrupt`.
    """
    if _First.held == 0:
        raise interrupt
    _First.waiting = interrupt


def hold() -> None:
    """Let interrupts wait from now on. In other threads there are none."""
    if threading.current_thread() is threading.main_thread():
        _First.held += 1


def release() -> None:
    """Undo a `hold`.

    Raises:
        BaseException: the interrupt that has come meanwhile.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    _First.held -= 1
    if _First.held == 0 and _First.waiting is not None:
        interrupt, _First.waiting = _First.waiting, None
        raise interrupt
