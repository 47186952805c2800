"""Removals that go on while the next work is done.

The removal of a container takes as long as that of its files, which can be a second and more. Nobody needs its end but
the run, which is not over before (`Engine.settle`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

MOST = 4
"""Removals at once; a further one waits for the oldest. Each may still hold the disk of a whole build."""


class Removals:
    """Removals of one engine. It may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: deque[threading.Thread] = deque()

    def begin(self, removal: Callable[[], None]) -> None:
        """Begin a removal, which raises nothing and ends in bounded time."""
        # Not a daemon: the interpreter does not end before it, whoever has forgotten to wait.
        thread = threading.Thread(target=removal, name="removal")
        with self._lock:
            late = [self._running.popleft() for _ in range(len(self._running) + 1 - MOST)]
            self._running.append(thread)
            thread.start()
        for other in late:
            other.join()

    def wait(self) -> None:
        """Wait for all removals that were begun."""
        while True:
            with self._lock:
                if not self._running:
                    return
                oldest = self._running[0]
            oldest.join()
            with self._lock:
                if self._running and self._running[0] is oldest:
                    self._running.popleft()
