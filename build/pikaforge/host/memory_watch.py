"""How much memory a container uses at most, by what its engine says once a second while it runs.

A peak between two samples is not seen, so whoever plans with it needs a margin. Files that the kernel keeps in memory
because they were read or written do not count: it drops them when programs need the room.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pikaforge.host import replies

if TYPE_CHECKING:
    from docker import APIClient  # noqa: TID251  # its type

    from pikaforge.host.engine_calls import EngineCalls


@dataclass(slots=True)
class PeakMemory:
    """What was seen so far."""

    bytes: int = 0
    """The largest sample; 0: there was none."""

    def note(self, sample: object) -> None:
        """Take a sample, as `/containers/NAME/stats` gives it."""
        said = replies.parse(replies.StatsReply, sample).memory
        caches = (said.stats.get("total_inactive_file"), said.stats.get("inactive_file"))  # of cgroup 1, of cgroup 2
        self.bytes = max(self.bytes, said.usage - next((size for size in caches if size is not None), 0))


@contextmanager
def watched(connect: Callable[[], tuple[APIClient, EngineCalls]], container: str) -> Iterator[PeakMemory]:
    """Watch a container until the block is left; an engine that says nothing of it is no error.

    Args:
        connect: returns a client of the calling thread.
        container: its id. It runs.
    """
    peak = PeakMemory()
    ended = threading.Event()
    reading: list[EngineCalls] = []

    def read() -> None:
        with suppress(Exception):  # it is gone, or the engine is; or what is read was cut
            api, calls = connect()
            reading.append(calls)
            with calls.closing():
                for sample in api.stats(container, decode=True, stream=True):
                    if ended.is_set():
                        return
                    peak.note(sample)

    threading.Thread(target=read, name="memory", daemon=True).start()
    try:
        yield peak
    finally:
        ended.set()
        for calls in reading:
            calls.cut()
