"""The life of a process as that of another one: a pipe on which a byte comes now and then.

A pipe says more than a parent's death would (prctl(2), PR_SET_PDEATHSIG): who holds its other end may also be stopped,
or may not want the process any more.
"""

from __future__ import annotations

import os
import select
import signal
import threading

BEAT = 1.0
"""Seconds between two bytes."""
LEASE = 30.0
"""Seconds without a byte after which nobody wants the process any more. A loaded machine is late by a few."""
GRACE = 60.0
"""Seconds for a process to remove what it has started, before it is ended."""
LATE = 70
"""Exit status of a process that was ended because it did not end by itself (EX_SOFTWARE, sysexits.h)."""


def follow(descriptor: int, *, lease: float = LEASE, grace: float = GRACE) -> None:
    """Send this process SIGTERM when the pipe is closed or silent; end it if it still runs `grace` seconds later.

    Args:
        descriptor: of the pipe's reading end.
        lease: seconds of silence.
        grace: seconds.
    """

    def watch() -> None:
        while select.select([descriptor], [], [], lease)[0] and os.read(descriptor, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(grace)
        os._exit(LATE)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
