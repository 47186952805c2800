"""Put a load on a running server, and measure throughput, latency and the server's memory over time.

Several processes make the load, because one Python process uses one core. Each opens its share of the connections. A
connection sends a batch of requests at once, waits for all of their replies, and sends the next batch (a closed loop).

`latency` is, for each request, the time from passing the first byte of its *batch* to the socket until the load process
has read the bytes with *its* reply. So it includes the wait for the other requests of the batch, in the server and on
the wire, and the time in which the reply lay in the socket while the load process served another connection. Like all
closed loops it understates what users would notice of a pause: a server that stops for a second delays one batch per
connection, and not all requests of that second. Pauses show in the throughput.

A request counts in the interval in which its reply arrived. All times are of the monotonic clock.
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
from pikaforge.bench.worker import LATE, NANO, LoadDone, LoadFailed, LoadPart, LoadReady, Task, work
from pikaforge.bench.workload import Workload
from pikaforge.errors import ForgeError, HostError, LoadError, UsageError

GRACE = 10.0
"""Seconds after the load's end in which replies may still arrive."""
BEGIN = 60.0
"""Seconds in which all processes must be ready, besides those for connecting."""
LEAVING = 2.0
"""Seconds in which a process must end by itself; then it is killed."""
QUANTILES = {"p50": 500, "p99": 990, "p999": 999}
"""Quantiles that are reported, in thousandths, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A part of the load's time, with what was measured in it."""

    start: float
    """Seconds since the load's start."""
    seconds: float
    """Its length; the last one may be shorter than the others."""
    latency: Histogram
    """Latencies of the requests whose replies arrived in it, in microseconds."""
    resident: int | None
    """Bytes of memory that the server held at its end; None if that was not measured."""

    @property
    def requests(self) -> int:
        """The number of requests whose replies arrived in it."""
        return self.latency.total

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


@dataclass(frozen=True, kw_only=True)  # no slots: `latency` is cached
class Samples:
    """The measurements of one load."""

    intervals: tuple[Interval, ...]
    late: Histogram
    """Latencies of requests without a reply at the load's end; they are in no interval."""
    resident_before: int | None
    """Bytes of memory that the server held just before the load."""
    busy: float = 0.0
    """The share of time in which the busiest process of the load used its CPU. If it is near 1, the load itself limits
    the throughput, at least in part: the server may be faster than measured. If other programs use the CPU, too, they
    slow the load down, and this figure does not show it."""

    @cached_property
    def latency(self) -> Histogram:
        """Latencies of all requests, in microseconds."""
        return Histogram.of(self.late, *(interval.latency for interval in self.intervals))

    @property
    def requests(self) -> int:
        """The number of requests that were answered."""
        return self.latency.total

    def json(self) -> dict[str, object]:
        """Return the measurements as JSON data, in seconds, requests, microseconds and bytes; null for unknown ones."""
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
    """Return p50, p99 and p999, in microseconds; None without any request."""
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
    """Make a load and measure it. It ends `GRACE` seconds after the workload's time at the latest.

    Args:
        host: where the server is: this machine, or a private network.
        port: its TCP port.
        workload: the requests.
        resident: returns the bytes of memory that the server holds; called before the load and at the end of each
            interval, in this thread. An interval that ends while it runs has no figure.
        interval: its length in seconds.
        connect_timeout: seconds for each connection.
        name: of the server, for errors.

    Raises:
        ConfigError: the host is on a public network, or the interval is not sensible.
        ForgeError: the server refused or closed a connection, answered with an error, or did not answer; or
            `resident` raised it, and the server is not the reason.
        HostError: a load process was killed.
    """
    if not 0.01 <= interval <= workload.seconds:
        raise UsageError(f"the interval is {interval:g} s; it must be from 0.01 s to the load's {workload.seconds:g}")
    check_private(host, port)
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
    with LoadProcesses(tasks, name) as processes:
        processes.ready(connect_timeout + BEGIN)
        before = resident()
        start = processes.start()
        memory = _watch(processes, resident, start, ends)
        done = processes.results(start + ends[-1] + round((GRACE + LEAVING) * NANO))
    return _samples(ends, done, memory, before)


def check_private(host: str, port: int) -> None:
    """Refuse a public address: a mistyped one would put a load on somebody else's server."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise HostError(f"`{host}` is not known: {error.strerror}") from error
    for *_, address in found:
        if not ipaddress.ip_address(address[0]).is_private:
            raise UsageError(
                f"{host} is on a public network", hint="a load is for this machine and its containers' networks only"
            )


def _ends(interval: int, whole: int) -> list[int]:
    """Return the ends of the intervals, in nanoseconds since the start."""
    return [*range(interval, whole, interval), whole]


def _watch(
    processes: LoadProcesses, resident: Callable[[], int | None], start: int, ends: list[int]
) -> dict[int, int | None]:
    """Return the server's memory at the ends of intervals, by the interval's index."""
    memory: dict[int, int | None] = {}
    index = 0
    while index < len(ends):
        processes.wait_until(start + ends[index])
        try:
            memory[index] = resident()
        except ForgeError:
            # Most likely the server has ended. The processes of the load notice it, too, and know why.
            processes.wait_until(time.monotonic_ns() + NANO)
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


class LoadProcesses:
    """The processes of a load; they have ended when the `with` block is left."""

    def __init__(self, tasks: list[Task], name: str) -> None:
        server = f"the server `{name}`" if name else "the server"
        self._server = f"{server} at {tasks[0].host}:{tasks[0].port}"
        # spawn: the caller may have threads, and a forked child would inherit the locks that they hold.
        context = multiprocessing.get_context("spawn")
        self._processes: list[BaseProcess] = []
        self._pipes: list[Pipe] = []
        self.done: list[LoadDone] = []
        self.parts: dict[int, list[LoadPart]] = {}
        """By process, in the order in which they came."""
        self._numbers: dict[Pipe, int] = {}
        self._count = 0
        try:
            for task in tasks:
                ours, theirs = context.Pipe()
                process = context.Process(target=work, args=(task, theirs), daemon=True)
                self._pipes.append(ours)
                self._numbers[ours] = task.process
                process.start()
                self._processes.append(process)
                theirs.close()  # else the end of the process would not close the pipe
        except BaseException:
            self._leave()
            raise

    def __enter__(self) -> LoadProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def ready(self, timeout: float) -> None:
        """Wait until all connections are made.

        Raises:
            ForgeError: the server refuses one, or the processes are not ready in time.
        """
        until = time.monotonic_ns() + round(timeout * NANO)
        while self._count < len(self._processes):
            if time.monotonic_ns() >= until:
                raise HostError(f"the load's processes were not ready within {timeout:g} s")
            self._receive(until)

    def start(self) -> int:
        """Start the load; return its start, in nanoseconds of the monotonic clock."""
        start = time.monotonic_ns()
        for pipe in self._pipes:
            pipe.send(start)
        return start

    def wait_until(self, until: int) -> None:
        """Wait until a time, in nanoseconds of the monotonic clock, or until all processes are done.

        Raises:
            ForgeError: the load ended before its time.
        """
        while time.monotonic_ns() < until and not self.over:
            self._receive(until)

    @property
    def over(self) -> bool:
        """Whether all processes are done."""
        return len(self.done) == len(self._processes)

    def results(self, until: int) -> list[LoadDone]:
        """Return what all processes have counted.

        Raises:
            ForgeError: the load ended before its time, or does not end.
        """
        while len(self.done) < len(self._processes):
            if time.monotonic_ns() >= until:
                raise HostError("the load's processes do not end", hint="is this machine out of memory or overloaded?")
            self._receive(until)
        return self.done

    def receive_rest(self) -> None:
        """Receive what the processes have sent until now, without waiting.

        Raises:
            ForgeError: the load ended before its time.
        """
        while self._pipes and any(pipe.poll() for pipe in self._pipes):
            self._receive(0)

    def _receive(self, until: int) -> None:
        """Receive the next messages of the processes; return at `until` without any."""
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
                raise LoadError(
                    f"{self._server} {message.problem}", hint="see the server's own log: its clients know no more"
                )
            if isinstance(message, LoadReady):
                self._count += 1
            if isinstance(message, LoadPart):
                self.parts.setdefault(self._numbers[pipe], []).append(message)
            if isinstance(message, LoadDone):
                self.done.append(message)
                self._pipes.remove(pipe)
                pipe.close()

    def _leave(self) -> None:
        for pipe in self._pipes:
            pipe.close()  # the process at the other end notices, and ends
        for process in self._processes:
            process.join(LEAVING)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
