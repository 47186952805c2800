"""Servers that answer anything but what they are asked for: each is a failed check, within bounds, and never more.

The servers are in this process, on the loopback interface. No engine is needed.
"""

from __future__ import annotations

import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import repeat

import pytest
from limits import within

from pikaforge.config.smoke_checks import Check, Probe
from pikaforge.pipeline.smoke import bulk_writes
from pikaforge.pipeline.smoke.expectations import run_check
from pikaforge.pipeline.smoke.resp import Closed, Connection
from pikaforge.pipeline.smoke.session import Session
from pikaforge.pipeline.smoke.wire import LIMIT, Wire

Talk = Callable[[socket.socket], None]
LONG = 30.0
"""Seconds in which everything here must end, whatever the machine has to do."""
BRIEF = 0.5
"""Seconds for one answer."""


@contextmanager
def serving(talk: Talk) -> Iterator[tuple[str, int]]:
    """A server that talks to each client in a thread, and then closes the connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def client(connection: socket.socket) -> None:
        with connection:
            try:
                talk(connection)
            except OSError:  # the client has had enough
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=client, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[:2]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def says(*parts: bytes) -> Talk:
    """Answer a request with some bytes, and close."""

    def talk(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        for part in parts:
            connection.sendall(part)

    return talk


def holds(connection: socket.socket) -> None:
    """Never answer."""
    while connection.recv(1 << 16):
        pass


def dribbles(connection: socket.socket) -> None:
    """Send a byte again and again, much more often than any limit of one read."""
    connection.recv(1 << 16)
    pause = threading.Event()
    while not pause.wait(BRIEF / 10):
        connection.sendall(b"+")


def floods(start: bytes, block: bytes) -> Talk:
    """Send without end."""

    def talk(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(start)
        for part in repeat(block):
            connection.sendall(part)

    return talk


GARBAGE: dict[str, Talk] = {
    "another protocol": says(b"ERROR\r\n"),
    "HTTP": says(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    "no line": says(b"\x16\x03\x01\x02\x00\x01\x00"),
    "no number": says(b":many\r\n"),
    "no length": says(b"$five\r\nabcde\r\n"),
    "a number of another script": says(":٣\r\n".encode()),
    "a number without end": says(b":" + b"9" * 100_000 + b"\r\n"),
    "a string that ends elsewhere": says(b"$3\r\nabcdef\r\n"),
    "a string of 9 EB": says(b"$9000000000000000000\r\nx"),
    "a list of 9 EB": says(b"*9000000000000000000\r\n+x\r\n"),
    "lists in lists": says(b"*1\r\n" * 100_000),
    "nothing": says(),
    "half a line": says(b"+PO"),
    "half a string": says(b"$10\r\nabc"),
    "silence": holds,
    "a byte now and then": dribbles,
    "a line without end": floods(b"+", b"x" * 65536),
    "a list without end": floods(b"*2000000000\r\n", b"+\r\n" * 20_000),
    "a string without end": floods(b"$2000000000\r\n", b"x" * 65536),
}


def ask(address: tuple[str, int]) -> object:
    """Ask once, in RESP."""
    with Connection(*address, timeout=BRIEF) as connection:
        return connection.exchange([["PING"]])


@pytest.mark.parametrize("talk", GARBAGE.values(), ids=GARBAGE)
def test_what_is_no_resp_is_said(talk: Talk) -> None:
    tracemalloc.start()
    try:
        with serving(talk) as address, pytest.raises(Closed) as caught:
            within(LONG, lambda: ask(address))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0 < len(str(caught.value)) <= 200
    assert str(caught.value).isprintable()
    assert most < 12 * LIMIT


def test_what_is_resp_is_read() -> None:
    """The control."""
    reply = b"*6\r\n+OK\r\n:-7\r\n$-1\r\n$4\r\na\r\nb\r\n*0\r\n-ERR no\r\n"
    with serving(says(reply)) as address, Connection(*address, timeout=LONG) as connection:
        [found] = connection.exchange([["EVAL"]])
    assert isinstance(found, list)
    assert found[:5] == ["OK", -7, None, "a\r\nb", []]
    assert repr(found[5]) == "(error) no"


@pytest.mark.parametrize("talk", [GARBAGE["another protocol"], GARBAGE["no length"]])
def test_bulk_writes_that_get_garbage_have_failed(talk: Talk) -> None:
    """Threads make them, and what a thread raises is easily lost: no write was acknowledged, and nothing was wrong."""
    check = Check.model_validate(
        {
            "check": "it",
            "instances": {"main": {}},
            "steps": ({"write": {"send": ("SET", "{n}"), "count": 100, "connections": 2, "batch": 10}},),
        }
    )
    load = check.steps[0].write
    assert load is not None
    with serving(talk) as address:
        connect = partial(Connection, *address, timeout=BRIEF)
        written = within(LONG, lambda: bulk_writes.write(load, connect, lambda: None))
    assert written.acknowledged == []
    assert written.problem.startswith("0 writes were acknowledged, then: ")


# ---- probes


def asked(address: tuple[str, int], **fields: object) -> str:
    """Make a check of one probe; return what is wrong."""
    check = Check.model_validate({"check": "it", "steps": ({"probe": Probe.model_validate(fields)},)})
    session = Session(partial(Connection, *address), partial(Wire, *address, timeout=BRIEF, limit=1 << 20))
    return within(LONG, lambda: run_check(check, session)).detail


TCP: dict[str, object] = {"kind": "tcp", "send": "hello\r\n", "match": "^READY\r\n"}
HTTP: dict[str, object] = {"kind": "http", "path": "/"}


@pytest.mark.parametrize(
    "fields", [TCP, HTTP, {**TCP, "match": None, "expect": "READY\r\n"}], ids=["tcp", "http", "expect"]
)
@pytest.mark.parametrize("talk", GARBAGE.values(), ids=GARBAGE)
def test_a_probe_that_is_not_answered_has_failed(talk: Talk, fields: dict[str, object]) -> None:
    with serving(talk) as address:
        detail = asked(address, **fields)
    assert detail.startswith("step 1: ")
    assert len(detail) < 1000
    assert detail.isprintable()


def body(text: bytes, head: bytes = b"HTTP/1.1 200 OK\r\n") -> Talk:
    return says(head + b"Content-Length: %d\r\n\r\n" % len(text), text)


ANSWERS: dict[str, tuple[Talk, dict[str, object], str]] = {
    "tcp": (says(b"REA", b"DY\r\nmore"), TCP, ""),
    "bytes": (says(b"\x00\xff\r\n"), {"kind": "tcp", "send": "\x80", "expect": "\x00\xff\r\n"}, ""),
    "a greeting": (lambda wire: wire.sendall(b"220 hi\r\n"), {"kind": "tcp", "expect": "220 "}, ""),
    "other bytes": (
        says(b"BUSY\r\n"),
        {**TCP, "match": None, "expect": "READY\r\n"},
        r"step 1: sent 'hello\r\n'; wanted 'READY\r\n'; got 'BUSY\r\n'",
    ),
    "no match": (
        says(b"BUSY\r\n"),
        TCP,
        r"step 1: sent 'hello\r\n'; wanted a match of '^READY\r\n'; got 'BUSY\r\n'",
    ),
    "a connection": (holds, {"kind": "tcp"}, ""),
    "no connection": (
        lambda wire: None,
        {"kind": "tcp"},
        "step 1: connected; got a connection that was closed at once",
    ),
    "http": (body(b"all is well"), {**HTTP, "match": "well$"}, ""),
    "another status": (
        body(b"wait", b"HTTP/1.1 503 Later\r\n"),
        HTTP,
        "step 1: got /; wanted status 200; got status 503 and 'wait'",
    ),
    "a wanted status": (body(b"wait", b"HTTP/1.1 503 Later\r\n"), {**HTTP, "status": 503}, ""),
    "another body": (
        body(b"ill"),
        {**HTTP, "match": "well"},
        "step 1: got /; wanted status 200 and a match of 'well'; got 'ill'",
    ),
    "in chunks": (
        says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nall i\r\n6\r\ns well\r\n0\r\n\r\n"),
        {**HTTP, "match": "^all is well$"},
        "",
    ),
    "a body up to the end": (says(b"HTTP/1.0 200 OK\r\n\r\nwell"), {**HTTP, "match": "^well$"}, ""),
    "resp": (says(b"-NOAUTH who are you\r\n"), {"kind": "resp"}, ""),
    "loading": (says(b"-LOADING wait\r\n"), {"kind": "resp"}, "step 1: sent PING; wanted a reply; got LOADING wait"),
}


@pytest.mark.parametrize(("talk", "fields", "detail"), ANSWERS.values(), ids=ANSWERS)
def test_probes(talk: Talk, fields: dict[str, object], detail: str) -> None:
    with serving(talk) as address:
        assert asked(address, **{name: value for name, value in fields.items() if value is not None}) == detail


def test_the_probes_of_a_check_share_a_connection_and_go_on_where_the_last_one_ended() -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(b"220 hello\r\n")
        assert connection.recv(100) == b"first\r\n"
        connection.sendall(b"1\r\n2\r\n")
        assert connection.recv(100) == b"second\r\n"
        connection.sendall(b"3\r\n")

    probes: tuple[dict[str, object], ...] = (
        {"kind": "tcp", "match": "^220 .*\r\n"},
        {"kind": "tcp", "send": "first\r\n", "expect": "1\r\n"},
        {"kind": "tcp", "expect": "2\r\n"},
        {"kind": "tcp", "send": "second\r\n", "match": "^3\r\n$"},
    )
    check = Check.model_validate({"check": "it", "steps": tuple({"probe": Probe.model_validate(p)} for p in probes)})
    with serving(talk) as address:
        session = Session(partial(Connection, *address), partial(Wire, *address, timeout=LONG))
        assert within(LONG, lambda: run_check(check, session)).detail == ""


def test_a_probe_with_within_asks_again_on_a_new_connection() -> None:
    turns = iter([b"BUSY\r\n", b"", b"READY\r\n"])

    def talk(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(next(turns))

    step = {"probe": Probe.model_validate({"kind": "tcp", "send": "hello\r\n", "expect": "READY\r\n"}), "within": LONG}
    check = Check.model_validate({"check": "it", "steps": (step,)})
    with serving(talk) as address:
        session = Session(partial(Connection, *address), partial(Wire, *address, timeout=LONG))
        assert within(LONG, lambda: run_check(check, session)).detail == ""
    assert list(turns) == []


def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = taken.getsockname()[:2]
    assert asked(address, kind="tcp").startswith("no connection: 127.0.0.1:")
    assert asked(address, kind="http", path="/").startswith("no connection: ")
    assert asked(address, kind="resp").startswith("no connection: ")
