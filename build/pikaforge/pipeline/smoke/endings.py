"""Ends of programs, in words."""

from __future__ import annotations

import signal

from pikaforge.errors import SIGNAL_BASE

MEANINGS = {
    signal.SIGILL: "illegal instruction: built for a CPU that this one is not",
    signal.SIGKILL: "most likely by the kernel, for lack of memory",
}
"""What signals usually mean that nobody here has sent."""


def signal_of(status: int) -> int:
    """Return the signal of an exit status of 128 + N; 0 for others."""
    return status - SIGNAL_BASE if SIGNAL_BASE < status < SIGNAL_BASE + 65 else 0


def describe_end(status: int) -> str:
    """Return the exit status of a program that has ended by itself in words; signals with their usual meaning."""
    number = signal_of(status)
    if not number:
        return f"exit status {status}"
    try:
        found = signal.Signals(number)
    except ValueError:
        return f"killed by signal {number}"
    meaning = f" ({MEANINGS[found]})" if found in MEANINGS else ""
    return f"killed by {found.name}{meaning}"
