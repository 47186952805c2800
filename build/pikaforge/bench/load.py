"""A load on a running server: throughput, latency and the server's memory over time.

It comes from several processes, because one Python process has one core. Each makes its share of the connections.
A connection sends a batch of requests at once, waits for all of their replies, and sends the next (a closed loop).

What is measured, as `latency`: for each request the time from handing the first byte of its *batch* to the socket
until the bytes with *its* reply were read by the load process. So it holds the waiting behind the batch's other
requests, in the server and on the wire, and the time that a reply lay in the socket while the load process was busy
with another connection. As loops of this kind do, it understates what users would see of a pause: a server that stops
for a second delays one batch per connection, not all the requests of that second. Pauses show in the throughput.

A request counts in the interval in which its reply came. All time is of the monotonic clock.
"""

from __future__ import annotations

import ipaddress
import multiprocessing
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from pikaforge.bench.histogram import Histogram
from pikaforge.bench.worker import LATE, NANO, LoadDone, LoadFailed, LoadReady, Task, work
from pikaforge.bench.workload import Workload
from pikaforge.errors import ConfigError, ForgeError, HostError

GRACE = 10.0
"""Seconds after the load's end in which replies may still come."""
BEGIN = 60.0
"""Seconds, besides those for connecting, until all processes must be ready."""
LEAVING = 2.0
"""Seconds for a process to end by itself."""
QUANTILES = {"p50": 500, "p99": 990, "p999": 999}
"""Per thousand, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A stretch of the load."""

    start: float
    """Seconds since the load's start."""
    seconds: float
    """How long it is; the last may be shorter than the others."""
    latency: Histogram
    """Of the requests whose replies came in it, in microseconds."""
    resident: int | None
    """Bytes of memory that the server held at its end; None if that was not to be known."""

    @property
    def requests(self) -> int:
        """Requests whose replies came in it."""
        return self.latency.total

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


@dataclass(frozen=True, kw_only=True)  # no slots: `latency` is kept
class Samples:
    """What a load came to."""

    intervals: tuple[Interval, ...]
    late: Histogram
    """Latencies of requests that were on their way at the load's end; they are in no interval."""
    resident_before: int | None
    """Bytes of memory that the server held just before the load."""
    busy: float = 0.0
    """The share of time in which the busiest process of the load had its CPU. Near 1, the load is what limits the
    throughput, or at least shares the blame: the server could be faster than it looks. Where others want the CPU, too,
    the load is slowed down without showing it here."""

    @cached_property
    def latency(self) -> Histogram:
        """Of all requests, in microseconds."""
        return Histogram.of(self.late, *(interval.latency for interval in self.intervals))

    @property
    def requests(self) -> int:
        """All that were answered."""
        return self.latency.total

    def json(self) -> dict[str, object]:
        """Plain data: seconds, requests, microseconds, bytes; what is not known is null."""
        return {
            "requests": self.requests,
            "busy": round(self.busy, 3),
            "latency_us": quantiles(self.latency),
            "resident_before": self.resident_before,
            "intervals": [
                {
                    "start": round(interval.start, 6),
                    "seconds": round(interval.seconds, 6),
                    "requests": interval.requests,
                    "latency_us": quantiles(interval.latency),
                    "resident": interval.resident,
                }
                for interval in self.intervals
            ],
        }


def quantiles(latency: Histogram) -> dict[str, int | None]:
    """p50, p99 and p999, in microseconds."""
    return {name: latency.quantile(per_thousand) for name, per_thousand in QUANTILES.items()}


def run(
    host: str,
    port: int,
    workload: Workload,
    *,
    resident: Callable[[], int | None],
    interval: float = 0.5,
    connect_timeout: float = 10.0,
    name: str = "",
) -> Samples:
    """Make a load and watch the server meanwhile. It ends `GRACE` seconds after the workload's time at the latest.

    Args:
        host: where the server is: this machine, or a private network.
        port: its TCP port.
        workload: what is asked of it.
        resident: the bytes of memory that it holds now; called before the load and at the end of each interval, in
            this thread. An end that passes while it is at work goes without.
        interval: seconds.
        connect_timeout: seconds for each connection.
        name: of the server, for errors.

    Raises:
        ConfigError: the host is on a public network, or the interval is not sensible.
        ForgeError: the server refused or closed a connection, answered with an error, or did not answer; whatever
            `resident` raises, if the server is not the reason.
        HostError: a load process was killed.
    """
    if not 0.01 <= interval <= workload.seconds:
        raise ConfigError(f"the interval is {interval:g} s; it must be from 0.01 s to the load's {workload.seconds:g}")
    _check_private(host, port)
    ends = _ends(round(interval * NANO), round(workload.seconds * NANO))
    tasks = [
        Task(
            host=host,
            port=port,
            workload=workload,
            process=process,
            interval=round(interval * NANO),
            connect_timeout=connect_timeout,
            grace=GRACE,
        )
        for process in range(workload.processes)
    ]
    with _LoadProcesses(tasks, name) as crew:
        crew.ready(connect_timeout + BEGIN)
        before = resident()
        start = crew.start()
        memory = _watch(crew, resident, start, ends)
        done = crew.results(start + ends[-1] + round((GRACE + LEAVING) * NANO))
    return _samples(ends, done, memory, before)


def _check_private(host: str, port: int) -> None:
    """Nothing that others use is put under load by a mistyped address."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise HostError(f"`{host}` is not known: {error.strerror}") from error
    for *_, address in found:
        if not ipaddress.ip_address(address[0]).is_private:
            raise ConfigError(
                f"{host} is on a public network", hint="a load is for this machine and its containers' networks only"
            )


def _ends(interval: int, whole: int) -> list[int]:
    """Where intervals end, in nanoseconds since the start."""
    return [*range(interval, whole, interval), whole]


def _watch(
    crew: _LoadProcesses, resident: Callable[[], int | None], start: int, ends: list[int]
) -> dict[int, int | None]:
    """The server's memory at the ends of intervals, by their index."""
    memory: dict[int, int | None] = {}
    index = 0
    while index < len(ends):
        crew.wait_until(start + ends[index])
        try:
            memory[index] = resident()
        except ForgeError:
            # Most likely the server is gone, and then the load's processes are about to tell how it went.
            crew.wait_until(time.monotonic_ns() + NANO)
            raise
        passed = time.monotonic_ns() - start
        index = next((i for i in range(index + 1, len(ends) - 1) if ends[i] > passed), max(index + 1, len(ends) - 1))
    return memory


def _samples(ends: list[int], done: list[LoadDone], memory: dict[int, int | None], before: int | None) -> Samples:
    parts = [part.counts for part in done]
    starts = [0, *ends]
    return Samples(
        intervals=tuple(
            Interval(
                start=starts[index] / NANO,
                seconds=(end - starts[index]) / NANO,
                latency=Histogram.of(*(part.get(index, {}) for part in parts)),
                resident=memory.get(index),
            )
            for index, end in enumerate(ends)
        ),
        late=Histogram.of(*(part.get(LATE, {}) for part in parts)),
        resident_before=before,
        busy=max(part.busy for part in done),
    )


class _LoadProcesses:
    """The processes of a load; they are gone when the block is left."""

    def __init__(self, tasks: list[Task], name: str) -> None:
        server = f"the server `{name}`" if name else "the server"
        self._server = f"{server} at {tasks[0].host}:{tasks[0].port}"
        # spawn: the caller may have threads, which a forked child would find locked.
        context = multiprocessing.get_context("spawn")
        self._processes: list[BaseProcess] = []
        self._pipes: list[Pipe] = []
        self._done: list[LoadDone] = []
        self._count = 0
        try:
            for task in tasks:
                ours, theirs = context.Pipe()
                process = context.Process(target=work, args=(task, theirs), daemon=True)
                self._pipes.append(ours)
                process.start()
                self._processes.append(process)
                theirs.close()  # so that its end is seen here
        except BaseException:
            self._leave()
            raise

    def __enter__(self) -> _LoadProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def ready(self, timeout: float) -> None:
        """Wait until all connections are made.

        Raises:
            ForgeError: the server does not let them.
        """
        until = time.monotonic_ns() + round(timeout * NANO)
        while self._count < len(self._processes):
            if time.monotonic_ns() >= until:
                raise HostError(f"the load's processes were not ready within {timeout:g} s")
            self._hear(until)

    def start(self) -> int:
        """Begin; when that was, in nanoseconds of the monotonic clock."""
        start = time.monotonic_ns()
        for pipe in self._pipes:
            pipe.send(start)
        return start

    def wait_until(self, until: int) -> None:
        """Wait until then, in nanoseconds of the monotonic clock.

        Raises:
            ForgeError: the load ended before its time.
        """
        while time.monotonic_ns() < until:
            self._hear(until)

    def results(self, until: int) -> list[LoadDone]:
        """What all processes have counted.

        Raises:
            ForgeError: the load ended before its time, or does not end.
        """
        while len(self._done) < len(self._processes):
            if time.monotonic_ns() >= until:
                raise HostError("the load's processes do not end", hint="is this machine out of memory or of time?")
            self._hear(until)
        return self._done

    def _hear(self, until: int) -> None:
        """Take what processes say, or return at `until`."""
        for pipe in wait(self._pipes, max(0.0, (until - time.monotonic_ns()) / NANO)):
            assert isinstance(pipe, Pipe)
            try:
                message = pipe.recv()
            except (EOFError, OSError) as error:
                raise HostError(
                    f"a load process for {self._server} was killed",
                    hint="is the memory full? run with fewer processes or a smaller pipeline",
                ) from error
            if isinstance(message, LoadFailed):
                raise ForgeError(
                    f"{self._server} {message.problem}", hint="the server's own log tells more than its clients know"
                )
            if isinstance(message, LoadReady):
                self._count += 1
            if isinstance(message, LoadDone):
                self._done.append(message)
                self._pipes.remove(pipe)
                pipe.close()

    def _leave(self) -> None:
        for pipe in self._pipes:
            pipe.close()  # which ends what still runs
        for process in self._processes:
            process.join(LEAVING)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
