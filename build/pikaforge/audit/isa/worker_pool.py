"""Process a file's code in chunks, in several processes, with bounded memory."""

from __future__ import annotations

import os
import signal
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from pikaforge.audit.isa.ranges import TABLE, CodeMap
from pikaforge.errors import AuditError
from pikaforge.host import process

Part = TypeVar("Part")
Given = TypeVar("Given")
Made = TypeVar("Made")

CHUNK_BYTES = 1 << 20
"""Bytes of code in a chunk: 0.05 s of work, so that the processes end at about the same time."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of pieces of one file."""

    path: str
    first: int
    """Index of the first piece in the map."""
    starts: array[int]
    ends: array[int]
    offsets: array[int]
    kinds: bytes
    cuts: frozenset[int] = frozenset()
    """Indexes of the pieces that go on with the gap of the piece before, which is in this chunk, too."""

    def with_gaps(self, indexes: Iterable[int]) -> frozenset[int]:
        """Return some indexes of pieces, with those of the pieces before them in their gaps."""
        found = set(indexes)
        for index in list(found):
            at = index
            while at in self.cuts:
                at -= 1
                found.add(at)
        return frozenset(found)


def chunks(path: Path, code: CodeMap) -> Iterator[Chunk]:
    """Yield the pieces of a file in chunks of at least `CHUNK_BYTES`, but for the last one. A long gap is in one."""
    count = len(code)
    sizes = code.sizes
    first = done = 0
    while first < count:
        last = bisect_left(sizes, done + CHUNK_BYTES, first) + 1
        # A table is in the chunk of the code before it.
        while last < count and (last in code.cuts or code.kinds[last] == TABLE):
            last += 1
        last = min(last, count)
        part = slice(first, last)
        yield Chunk(
            str(path),
            first,
            code.starts[part],
            code.ends[part],
            code.offsets[part],
            bytes(code.kinds[part]),
            frozenset(n for n in code.cuts if first < n < last) if code.cuts else frozenset(),
        )
        first, done = last, sizes[last - 1]


def _leave_signals() -> None:
    """Leave signals of the terminal to the first process, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextmanager
def _killed() -> Iterator[None]:
    """Say what it means that a worker process has ended."""
    try:
        yield
    except BrokenProcessPool as error:
        raise AuditError("a decoder process was killed", hint="is the memory full? run with fewer processes") from error


class WorkerPool:
    """Worker processes for chunks of code; with one worker, this process. Results come in the order of the chunks."""

    def __init__(self, workers: int) -> None:
        # spawn: the pipeline has threads, and a forked child would inherit the locks that they hold.
        spawn = get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_leave_signals) if workers > 1 else None
        self._workers, self._window = workers, workers * 3

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def warm(self, work: Callable[[Given], None], given: Given) -> None:
        """Start all processes at once, each with some work; it goes on while this process prepares more."""
        if self._pool is not None:
            for _ in range(self._workers):
                self._pool.submit(work, given)

    def begin(self, work: Callable[[Part, Given], Made], part: Part, given: Given) -> Callable[[], Made]:
        """Have another process do `work(part, given)` while this one does something else; return what gives the result.

        Raises:
            AuditError: a worker process was killed.
        """
        if self._pool is None:
            return lambda: work(part, given)
        with _killed():
            future = self._pool.submit(work, part, given)

        def result() -> Made:
            with _killed():
                return future.result()

        return result

    def ahead(self, work: Callable[[Part], Made], parts: Sequence[Part]) -> Iterator[Made]:
        """Yield `work(part)` of each part, where that of the next one is done by another process in the meantime.

        Raises:
            AuditError: a worker process was killed.
        """
        following: Future[Made] | None = None
        for number, part in enumerate(parts):
            with _killed():
                made = work(part) if following is None else following.result()
                if self._pool is not None and number + 1 < len(parts):
                    following = self._pool.submit(work, parts[number + 1])
            yield made

    def each(self, work: Callable[[Part, Given], Made], parts: Iterable[Part], given: Given) -> Iterator[Made]:
        """Yield `work(part, given)` of each part; few are under way at once, so that memory stays bounded.

        Raises:
            AuditError: a worker process was killed.
            HostError: the run is interrupted.
        """
        if self._pool is None:
            for part in parts:
                process.pause(0)
                yield work(part, given)
            return
        running: deque[Future[Made]] = deque()
        with _killed():
            for part in parts:
                process.pause(0)
                running.append(self._pool.submit(work, part, given))
                if len(running) >= self._window:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()


_MOST: ContextVar[int] = ContextVar("most", default=0)
"""CPUs that what runs in this thread may use; 0: all."""


@contextmanager
def at_most(workers: int) -> Iterator[None]:
    """Let `cores` return no more than this, in this thread, until the block is left; 0: as many as there are."""
    token = _MOST.set(workers)
    try:
        yield
    finally:
        _MOST.reset(token)


def cores() -> int:
    """Return the number of CPUs that this process may use, or as many as `at_most` allows."""
    there = len(os.sched_getaffinity(0))
    return min(there, _MOST.get() or there)
