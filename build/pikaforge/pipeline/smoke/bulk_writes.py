"""Bulk writes: many writes over several connections, and the reading back of those that were acknowledged."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pikaforge.config.scalars import Scalar
from pikaforge.config.smoke_checks import Load, Reading
from pikaforge.pipeline.smoke.expectations import show
from pikaforge.pipeline.smoke.resp import Connection, Reply
from pikaforge.pipeline.smoke.wire import Closed

Connect = Callable[[], Connection]


def numbered(words: Sequence[str | int], number: int) -> list[str | int]:
    """Return a request with {n} filled in."""
    return [_filled(word, number) for word in words]


def _filled(word: str | int, number: int) -> str | int:
    return word.replace("{n}", str(number)) if isinstance(word, str) else word


def _wanted(expected: Scalar, number: int) -> Scalar:
    return None if expected is None else _filled(expected, number)


def _batches(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


@dataclass(slots=True, kw_only=True)
class WriteCounts:
    """The outcome of bulk writes."""

    acknowledged: list[int] = field(default_factory=list)
    """Numbers of the writes that the server has acknowledged."""
    problem: str = ""
    """The first exchange that was wrong; empty if none was."""


class _Writer:
    """Bulk writes in progress."""

    def __init__(self, load: Load, connect: Connect) -> None:
        self._load = load
        self._connect = connect
        self._lock = threading.Lock()
        self._left = _batches(range(1, load.count + 1), load.batch)
        self._killed = False
        self._working = load.connections
        self.written = WriteCounts()
        self.enough = threading.Event()
        """It is set when it is time to kill the server, or when nothing is left to wait for."""

    def _next(self) -> Sequence[int] | None:
        with self._lock:
            return None if self.written.problem or self._killed else next(self._left, None)

    def work(self) -> None:
        """Write over one connection, until there is nothing left to write."""
        try:
            with self._connect() as connection:
                while (batch := self._next()) is not None:
                    self._count(batch, connection.exchange([numbered(self._load.send, n) for n in batch]))
        except Closed as error:
            self._fail(f"{len(self.written.acknowledged)} writes were acknowledged, then: {error}")
        finally:
            with self._lock:
                self._working -= 1
                if not self._working:
                    self.enough.set()

    def _count(self, batch: Sequence[int], replies: Sequence[Reply]) -> None:
        with self._lock:
            for number, reply in zip(batch, replies, strict=True):
                if reply == _wanted(self._load.expect, number):
                    self.written.acknowledged.append(number)
                elif not self.written.problem:
                    sent = " ".join(str(word) for word in numbered(self._load.send, number))
                    wanted = show(_wanted(self._load.expect, number))
                    self.written.problem = f"sent {sent}; wanted {wanted}; got {show(reply)}"
            if self.written.problem or len(self.written.acknowledged) >= (self._load.kill_at or self._load.count):
                self.enough.set()

    def _fail(self, problem: str) -> None:
        with self._lock:
            # After the server was killed, connections break.
            if not self._killed and not self.written.problem:
                self.written.problem = problem
                self.enough.set()

    def kill(self, kill: Callable[[], None]) -> None:
        """Call `kill` while writes are being sent, unless one was wrong."""
        with self._lock:
            if self.written.problem:
                return
            self._killed = True
        kill()


def write(load: Load, connect: Connect, kill: Callable[[], None]) -> WriteCounts:
    """Write; with `kill_at`, call `kill` as soon as so many are acknowledged, while the others are being sent.

    Raises:
        ForgeError: whatever `kill` raises.
    """
    writer = _Writer(load, connect)
    with ThreadPoolExecutor(max_workers=load.connections, thread_name_prefix="write") as pool:
        work = [pool.submit(writer.work) for _ in range(load.connections)]
        writer.enough.wait()
        if load.kill_at is not None:
            writer.kill(kill)
    for each in work:
        each.result()  # what a thread has raised would be lost
    return writer.written


def verify(reading: Reading, acknowledged: Sequence[int], connection: Connection) -> str:
    """Read acknowledged writes back; return "" if all are there, else how many are not, and the first wrong exchange.

    Raises:
        Closed: the server went away or did not answer.
    """
    lost, first = 0, ""
    for batch in _batches(sorted(acknowledged), reading.batch):
        replies = connection.exchange([numbered(reading.send, number) for number in batch])
        for number, reply in zip(batch, replies, strict=True):
            wanted = _wanted(reading.expect, number)
            if reply == wanted:
                continue
            lost += 1
            if not first:
                sent = " ".join(str(word) for word in numbered(reading.send, number))
                first = f"sent {sent}; wanted {show(wanted)}; got {show(reply)}"
    if not lost:
        return ""
    return f"{lost} of {len(acknowledged)} acknowledged writes are not there; the first: {first}"
