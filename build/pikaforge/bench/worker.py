"""One process of a load: several connections, each with one batch of requests under way."""

from __future__ import annotations

import selectors
import signal
import socket
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import NoReturn

from pikaforge.bench.acknowledged import Acknowledged
from pikaforge.bench.histogram import bucket
from pikaforge.bench.key_load import KeyLoad, KeyRequests
from pikaforge.bench.workload import Requests, Workload, key_table
from pikaforge.host.text import size_text

NANO = 1_000_000_000
RECEIVE = 1 << 18
"""Bytes that are read from a socket at a time."""
ENDLESS = 1 << 62
"""The end of a load that ends with its last key."""
LATE = -1
"""The interval's number for replies that arrive after the load's end."""
_PLAIN = b"+OK\r\n"
DEPTH, REPLY_LIMIT = 32, 16 << 20
"""Lists within lists, and bytes, of a reply; a server that sends more is not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a process of the load needs to know before it connects."""

    host: str
    port: int
    workload: Workload | KeyLoad
    process: int
    interval: int
    """In nanoseconds."""
    connect_timeout: float
    """In seconds."""
    grace: float
    """Seconds after the load's end in which replies may still arrive; of a load of keys, seconds without any reply."""
    acknowledged: Path | None = None
    """The file with the numbers of acknowledged keys, of a load of keys."""


@dataclass(frozen=True, slots=True)
class LoadReady:
    """Message: all connections are made."""


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """Message: the load cannot go on."""

    problem: str
    """The predicate of a sentence whose subject is the server."""


@dataclass(frozen=True, slots=True)
class LoadPart:
    """Message: what was counted in the intervals before one."""

    before: int
    counts: dict[int, dict[int, int]]
    """As in `LoadDone`, of those intervals that are in no message before."""


@dataclass(frozen=True, slots=True)
class LoadDone:
    """Message: the load has ended."""

    counts: dict[int, dict[int, int]]
    """Number of requests by interval (or `LATE`), and by bucket of their latency in microseconds."""
    busy: float
    """The share of the load's time in which this process used the CPU."""
    took: int = 0
    """Nanoseconds from the load's start to its end in this process."""
    process: int = 0
    """The process's number."""


class Failure(Exception):
    """The reason why a load ends early: the predicate of a sentence whose subject is the server."""


class _Leave(Exception):
    """The parent has ended, or has stopped the load."""


def replies(data: bytes, most: int) -> tuple[int, int, tuple[int, str] | None]:
    """Count the whole RESP2 replies at the beginning of some bytes.

    Args:
        data: the bytes.
        most: the number at which counting stops.

    Returns:
        The number of replies, the number of their bytes, and the first error: how many replies precede it, its text.

    Raises:
        Failure: the bytes are not RESP, or a reply is too long.
    """
    count = at = 0
    error = None
    while count < most and at < len(data):
        end = _end(data, at)
        if end is None:
            break
        if error is None and data[at] == 0x2D:
            error = count, data[at + 1 : end - 2].decode("utf-8", "backslashreplace")
        count, at = count + 1, end
    if len(data) - at > REPLY_LIMIT:
        raise Failure(f"sent a reply that is longer than {size_text(REPLY_LIMIT)}")
    return count, at, error


def _end(data: bytes, at: int, depth: int = DEPTH) -> int | None:
    """Return the end of the reply that begins at `at`; None if the reply is not whole."""
    line = data.find(b"\r\n", at)
    kind = data[at : at + 1]
    if kind not in (b"+", b"-", b":", b"$", b"*"):
        raise Failure(f"sent what is no reply of the protocol: {data[at : at + 60]!r}")
    if line < 0:
        return None
    if kind in (b"+", b"-", b":"):
        return line + 2
    try:
        size = int(data[at + 1 : line])
    except ValueError as error:
        raise Failure(f"sent what is no reply of the protocol: {data[at : at + 60]!r}") from error
    if kind == b"$":
        end = line + 2 if size < 0 else line + 4 + size
        return end if end <= len(data) else None
    if not depth:
        raise Failure(f"sent what is no reply of the protocol: more than {DEPTH} lists are within each other")
    place: int | None = line + 2
    for _ in range(size):
        assert place is not None
        place = _end(data, place, depth - 1) if place < len(data) else None
        if place is None:
            return None
    return place


class _Client:
    """A connection, and the replies that it waits for."""

    __slots__ = ("left", "owed", "requests", "rest", "sent", "wire")

    def __init__(self, wire: socket.socket, requests: Requests | KeyRequests) -> None:
        self.wire = wire
        self.requests = requests
        self.sent = 0
        """The time at which sending the batch began, in nanoseconds of the monotonic clock."""
        self.owed = 0
        """The number of replies that have not arrived."""
        self.left = memoryview(b"")
        """Bytes that the socket has not accepted yet."""
        self.rest = b""
        """The beginning of a reply that has not arrived as a whole."""


class Worker:
    """The connections of one process, and what it has counted."""

    def __init__(self, task: Task, pipe: Pipe) -> None:
        self._task = task
        self._pipe = pipe
        self._selector = selectors.DefaultSelector()
        self._clients: list[_Client] = []
        self._plain = _PLAIN * task.workload.pipeline
        self._counts: dict[int, dict[int, int]] = {}
        self._start = self._end = self._last = 0
        self._open = 0

    def connect(self) -> None:
        """Make all connections.

        Raises:
            Failure: one is refused, or not made in time.
        """
        task = self._task
        make = self._requests()
        for number in task.workload.share(task.process):
            try:
                wire = socket.create_connection((task.host, task.port), timeout=task.connect_timeout)
            except OSError as error:
                raise Failure(f"refused connection {number + 1}: {error.strerror or error}") from error
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire.setblocking(False)
            client = _Client(wire, make(number))
            self._clients.append(client)
            self._selector.register(wire, selectors.EVENT_READ, client)

    def _requests(self) -> Callable[[int], Requests | KeyRequests]:
        """Return what makes the requests of a connection."""
        load = self._task.workload
        assert isinstance(load, Workload)  # `work` sees to it
        table = key_table(load)
        return lambda number: Requests(load, number, table)

    def _begin(self, start: int) -> None:
        """Set the times of a load that begins now."""
        load = self._task.workload
        assert isinstance(load, Workload)
        self._start = start
        self._end = start + int(load.seconds * NANO)
        self._last = self._end + int(self._task.grace * NANO)

    def _tick(self, now: int) -> int:
        """Return the time until which nothing is to be done but to wait for replies.

        Raises:
            Failure: the server has not answered in time.
        """
        if now >= self._last:
            raise Failure(
                f"still owes replies on {self._open} connections {self._task.grace:g} s after the end of the load"
            )
        return self._last

    def go(self, start: int) -> LoadDone:
        """Make the load.

        Args:
            start: of the first interval, in nanoseconds of the monotonic clock, which is the same in all processes.

        Raises:
            Failure: the server closed a connection, answered with an error, or did not answer.
        """
        used = time.process_time_ns()
        self._begin(start)
        self._selector.register(self._pipe, selectors.EVENT_READ, None)
        self._open = len(self._clients)
        for client in self._clients:
            self._send(client)
        while self._open:
            now = time.monotonic_ns()
            for key, events in self._selector.select((self._tick(now) - now) / NANO):
                if key.data is None:
                    raise _Leave
                if events & selectors.EVENT_WRITE:
                    self._flush(key.data)
                if events & selectors.EVENT_READ:
                    self._receive(key.data)
        took = time.monotonic_ns() - start
        return LoadDone(self._counts, (time.process_time_ns() - used) / took, took, self._task.process)

    def _send(self, client: _Client) -> None:
        data = client.requests.batch()
        if not data:
            self._open -= 1
            return
        client.owed = client.requests.asked
        client.sent = time.monotonic_ns()
        try:
            taken = client.wire.send(data)
        except BlockingIOError:
            taken = 0
        except OSError:
            self._broken(client)
        if taken < len(data):
            client.left = memoryview(data)[taken:]
            self._selector.modify(client.wire, selectors.EVENT_READ | selectors.EVENT_WRITE, client)

    def _flush(self, client: _Client) -> None:
        try:
            client.left = client.left[client.wire.send(client.left) :]
        except BlockingIOError:
            return
        except OSError:
            self._broken(client)
        if not client.left:
            self._selector.modify(client.wire, selectors.EVENT_READ, client)

    def _broken(self, client: _Client) -> NoReturn:
        """Raise the reason why sending failed: the server's last replies, read here, may hold it."""
        while client.owed:
            self._receive(client, going=False)
        raise Failure("closed a connection")

    def _receive(self, client: _Client, *, going: bool = True) -> None:
        try:
            data = client.wire.recv(RECEIVE)
        except BlockingIOError as error:
            if going:
                return
            raise Failure("closed a connection") from error
        except OSError as error:
            raise Failure(f"closed a connection: {error.strerror}") from error
        now = time.monotonic_ns()
        if not data:
            raise Failure("closed a connection")
        # Nearly all replies to writes are +OK: then one comparison counts them.
        if not client.rest and len(data) % len(_PLAIN) == 0 and data == self._plain[: len(data)]:
            count = len(data) // len(_PLAIN)
        else:
            count = self._count(client, client.rest + data)
        if count:
            self._record(count, now, (now - client.sent) // 1000)
            client.owed -= count
            client.requests.answered(count)
        if client.owed < 0 or (client.owed == 0 and client.rest):
            raise Failure("sent more replies than it was asked for")
        if client.owed or not going:
            return
        if now < self._end:
            self._send(client)
        else:
            self._open -= 1

    def _count(self, client: _Client, data: bytes) -> int:
        count, used, error = replies(data, client.owed)
        if error is not None:
            place = client.requests.asked - client.owed + error[0]
            client.requests.answered(error[0])
            request = " ".join(client.requests.words(place))
            raise Failure(f"answered `{request}` with an error: {error[1][:200]}")
        client.rest = data[used:]
        return count

    def _record(self, count: int, now: int, latency: int) -> None:
        number = (now - self._start) // self._task.interval if now < self._end else LATE
        interval = self._counts.setdefault(number, {})
        index = bucket(latency)
        interval[index] = interval.get(index, 0) + count

    def close(self) -> None:
        """Close all connections."""
        self._selector.close()
        for client in self._clients:
            client.wire.close()


class KeyWorker(Worker):
    """The connections of one process of a load of keys. It ends with the last key, and not at a time."""

    def __init__(self, task: Task, pipe: Pipe) -> None:
        super().__init__(task, pipe)
        assert task.acknowledged is not None  # who makes tasks sees to it
        self._acknowledged = Acknowledged(task.acknowledged)
        self._sent = self._heard = 0

    def _requests(self) -> Callable[[int], KeyRequests]:
        load, noted = self._task.workload, self._acknowledged
        assert isinstance(load, KeyLoad)
        return lambda number: KeyRequests(load, number, noted.keys(number), partial(noted.note, number))

    def _begin(self, start: int) -> None:
        self._start = self._heard = start
        self._end = ENDLESS

    def _tick(self, now: int) -> int:
        """Send what was counted in the intervals that have ended; return the end of the present one."""
        interval = self._task.interval
        before = (now - self._start) // interval
        if before > self._sent:
            done = {index: self._counts.pop(index) for index in sorted(self._counts) if index < before}
            self._pipe.send(LoadPart(before, done))
            self._sent = before
            if done:
                self._heard = now
        if now - self._heard > self._task.grace * NANO + interval:
            raise Failure(f"has not answered for {self._task.grace:g} s")
        return self._start + (before + 1) * interval

    def close(self) -> None:
        """Close all connections, and the file with the numbers of acknowledged keys."""
        super().close()
        self._acknowledged.close()


def work(task: Task, pipe: Pipe) -> None:
    """Run a process of the load: connect, report that, wait for the start, make the load, and report the counts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, too, which then closes the pipe
    worker = KeyWorker(task, pipe) if isinstance(task.workload, KeyLoad) else Worker(task, pipe)
    # The parent closes all pipes as soon as one process fails.
    with suppress(_Leave, EOFError, BrokenPipeError, ConnectionResetError), closing(worker):
        try:
            worker.connect()
            pipe.send(LoadReady())
            pipe.send(worker.go(pipe.recv()))
        except Failure as failure:
            pipe.send(LoadFailed(str(failure)))
