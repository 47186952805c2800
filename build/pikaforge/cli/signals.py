"""Signals that end a run: Ctrl-C, SIGTERM, and SIGHUP, which comes when a terminal or an ssh session goes.

All are an interrupt: what runs is ended and removed, and the exit status is 128 + N.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import TextIO

from pikaforge.errors import SIGNAL_BASE
from pikaforge.host import interrupts

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE = 20.0
"""Seconds after a signal in which others are ignored: what runs is being removed. One signal often comes twice, from
the terminal and from the program that has started this one."""
HUNG_UP = SIGNAL_BASE + signal.SIGHUP
"""Exit status where the reader of standard output, or the terminal, is gone."""
GONE = (errno.EPIPE, errno.EIO)
"""Errors of writing to a reader or a terminal that is gone."""


class SignalInterrupt(KeyboardInterrupt):
    """A signal that ends the run."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def status_of(interrupt: KeyboardInterrupt) -> int:
    """Return the exit status of an interrupted run."""
    return SIGNAL_BASE + (interrupt.number if isinstance(interrupt, SignalInterrupt) else signal.SIGINT)


@contextlib.contextmanager
def interrupting() -> Iterator[None]:
    """Raise SignalInterrupt at a signal, as soon as `host.interrupts` lets it.

    A signal that is ignored stays so: nohup and shells have asked for that.
    """
    first: list[float] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if first and now - first[0] < GRACE:
            return
        first[:] = [now]
        interrupts.deliver(SignalInterrupt(number))

    old = {number: signal.getsignal(number) for number in ENDING}
    taken = [number for number in ENDING if old[number] != signal.SIG_IGN]
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, old[number])


def reader_is_gone(error: OSError) -> bool:
    """Return whether an error is that of a standard stream whose terminal or reader is gone."""
    # A disk that fails has EIO, too, and so has a connection that ends EPIPE.
    return error.errno in GONE and error.filename is None and any(map(_is_gone, (sys.stdout, sys.stderr)))


def _is_gone(stream: TextIO) -> bool:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none at all
        watched = select.poll()
        watched.register(stream.fileno(), 0)
        return any(events & (select.POLLERR | select.POLLHUP) for _, events in watched.poll(0))
    return False


def drop_streams() -> None:
    """Lead the standard streams to nowhere, so that nothing fails any more because a reader is gone."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
