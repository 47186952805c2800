"""Ends of programs, in words."""

from __future__ import annotations

import signal

from pikaforge.errors import SIGNAL_BASE


def signal_of(status: int) -> int:
    """Return the signal of an exit status of 128 + N; 0 for others."""
    return status - SIGNAL_BASE if SIGNAL_BASE < status < SIGNAL_BASE + 65 else 0


def describe_end(status: int) -> str:
    """Return an exit status in words; SIGILL with its usual meaning."""
    number = signal_of(status)
    if not number:
        return f"exit status {status}"
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    meaning = " (illegal instruction: built for a CPU that this one is not)" if number == signal.SIGILL else ""
    return f"killed by {name}{meaning}"
