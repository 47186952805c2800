"""Run a load test: write all keys of a `KeyLoad` to a running server, and measure it as `load` does.

What the processes have counted comes with the end of each interval, so a test of some hours needs little memory, and an
interruption loses one interval of the measurement, and no key.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pikaforge.bench.histogram import Histogram
from pikaforge.bench.journal import LoadJournal
from pikaforge.bench.load import BEGIN, Interval, LoadProcesses, Samples, check_private
from pikaforge.bench.worker import NANO, Task
from pikaforge.errors import ForgeError

STALL = 300.0
"""Seconds without any reply after which the test ends: a server that compacts may pause for long."""
RECENT = 10.0
"""Seconds over which the rate of the progress is."""
SHORT, MIDDLE = (100_000, 0.1), (20_000_000, 0.5)
LONG = 2.0
"""Keys, and seconds between two readings for as many keys at most; and for more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a load test is."""

    done: int
    """Keys that were acknowledged."""
    keys: int
    rate: float
    """Keys per second, lately."""

    @property
    def left(self) -> float | None:
        """Seconds until the end at this rate; None if nothing was acknowledged lately."""
        return (self.keys - self.done) / self.rate if self.rate else None


def interval_for(keys: int) -> float:
    """Return the seconds between two readings of the server's memory: a long test needs no more points than a plot."""
    return next((seconds for most, seconds in (SHORT, MIDDLE) if keys <= most), LONG)


def run(
    host: str,
    port: int,
    journal: LoadJournal,
    *,
    resident: Callable[[], int | None],
    watch: Callable[[Progress], None],
    connect_timeout: float = 10.0,
    name: str = "",
) -> float:
    """Write what was not acknowledged yet; return the share of time in which the busiest load process used its CPU.

    Args:
        host: where the server is: this machine, or a private network.
        port: its TCP port.
        journal: the test; it is written to.
        resident: returns the bytes of memory that the server holds; called at the end of each interval.
        watch: is called at the end of each interval, after that; it may raise an error to end the load.
        connect_timeout: seconds for each connection.
        name: of the server, for errors.

    Raises:
        ConfigError: the host is on a public network.
        ForgeError: the server refused or closed a connection, answered with an error, or did not answer; or `watch`
            raised it.
        HostError: a load process was killed.
    """
    check_private(host, port)
    tasks = _tasks(host, port, journal, connect_timeout)
    with LoadProcesses(tasks, name) as processes:
        processes.ready(connect_timeout + BEGIN)
        session = _Session(journal, processes, tasks[0].interval)
        start = processes.start()
        try:
            session.follow(start, resident, watch)
        except BaseException:
            with suppress(ForgeError):
                processes.receive_rest()
            session.collect()
            raise
        session.finish()
        watch(session.progress())
        return max(done.busy for done in processes.done)


def _tasks(host: str, port: int, journal: LoadJournal, connect_timeout: float) -> list[Task]:
    head = journal.head
    return [
        Task(
            host=host,
            port=port,
            workload=head.load,
            process=process,
            interval=round(head.interval * NANO),
            connect_timeout=connect_timeout,
            grace=STALL,
            acknowledged=journal.noted,
        )
        for process in range(head.load.processes)
    ]


class _Session:
    """What the processes have sent, as intervals of the journal."""

    def __init__(self, journal: LoadJournal, processes: LoadProcesses, length: int) -> None:
        self._journal, self._processes, self._length = journal, processes, length
        self._before = journal.seconds
        self._done, _ = journal.written()
        self._counts: dict[int, list[dict[int, int]]] = {}
        self._sent: dict[int, int] = {}
        """By process: the interval before which all its counts are here."""
        self._ended: set[int] = set()
        self._next = 0
        self.memory: dict[int, int | None] = {}
        """By interval; one that ended while the memory was read has none."""

    def follow(self, start: int, resident: Callable[[], int | None], watch: Callable[[Progress], None]) -> None:
        """Read the memory and add intervals until all processes are done; see `run`."""
        index, length = 0, self._length
        while not self._processes.over:
            self._processes.wait_until(start + (index + 1) * length)
            self.memory[index] = resident()
            self.collect()
            watch(self.progress())
            index = max(index + 1, (time.monotonic_ns() - start) // length)

    def collect(self) -> None:
        """Add the intervals of which all processes have sent their counts."""
        processes = self._processes
        for done in processes.done:
            if done.process not in self._ended:
                self._ended.add(done.process)
                self._count(done.counts)
        for process, parts in processes.parts.items():
            for part in parts:
                self._count(part.counts)
                self._sent[process] = part.before
            parts.clear()
        going = set(range(self._journal.head.load.processes)) - self._ended
        if going:
            self._add(min(self._sent.get(process, 0) for process in going), self._length)

    def _count(self, counts: dict[int, dict[int, int]]) -> None:
        for index, buckets in counts.items():
            self._counts.setdefault(index, []).append(buckets)

    def finish(self) -> None:
        """Add all intervals that are left: all processes are done."""
        self.collect()
        whole, rest = divmod(max(done.took for done in self._processes.done), self._length)
        self._add(whole, self._length)
        if rest:
            self._add(whole + 1, rest)

    def _add(self, before: int, length: int) -> None:
        while self._next < before:
            index = self._next
            latency = Histogram.of(*self._counts.pop(index, []))
            self._journal.add(
                Interval(
                    start=self._before + index * self._length / NANO,
                    seconds=length / NANO,
                    latency=latency,
                    resident=self.memory.pop(index, None),
                )
            )
            self._done += latency.total
            self._next += 1

    def progress(self) -> Progress:
        """Return how far the test is."""
        lately = [line.interval() for line in self._journal.lines[-max(1, round(RECENT * NANO / self._length)) :]]
        lately = [interval for interval in lately if interval.start >= self._before - 1e-6]
        seconds = sum(interval.seconds for interval in lately)
        rate = sum(interval.requests for interval in lately) / seconds if seconds else 0.0
        return Progress(done=self._done, keys=self._journal.head.load.keys, rate=rate)


def samples(journal: LoadJournal, busy: float) -> Samples:
    """Return the measurements of all sessions."""
    return Samples(
        intervals=tuple(line.interval() for line in journal.lines),
        late=Histogram(),
        resident_before=journal.head.resident_before,
        busy=busy,
    )
