"""Addresses at which something else answers than a scheduler, or nothing does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import pytest
from integration.farms import connecting

CONNECT = """
import sys
from pikaforge.errors import ForgeError
from pikaforge.farm import cluster
cluster.CONNECT = 2.0
try:
    with cluster.connected(sys.argv[1]):
        print("connected")
except ForgeError as error:
    print(error.message)
"""
ANSWERS: Mapping[str, tuple[bytes, str]] = {
    "silent": (b"", "it said nothing for 2 s"),
    "a web server": (b"HTTP/1.0 400 Bad Request\r\n\r\n" * 100, ""),
    "a message without end": (b"\xff\xff\xff\x7f\0\0\0\0" * 10, "it said nothing for 2 s"),
}
"""What a server says as soon as somebody connects, and what of it is said."""


@contextmanager
def _server(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve each connection; yield the address."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):  # the listener is closed
                while True:
                    held.append(listener.accept()[0])
                    serve(held[-1])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    for connection in held:
        connection.close()


@pytest.mark.parametrize("kind", ANSWERS)
def test_what_is_no_scheduler_is_an_error_in_time(kind: str) -> None:
    pytest.importorskip("distributed")
    answer, words = ANSWERS[kind]

    def serve(connection: socket.socket) -> None:
        with suppress(OSError):
            connection.sendall(answer)

    with _server(serve) as address:
        done = connecting(CONNECT, address)
    assert done.stdout.startswith(f"no Dask scheduler answers at {address}: {words}"), done.stdout + done.stderr
    assert (done.stdout.count("\n"), done.stderr, done.returncode) == (1, "", 0)


def test_who_hangs_up_is_no_scheduler() -> None:
    pytest.importorskip("distributed")
    with _server(socket.socket.close) as address:
        done = connecting(CONNECT, address)
    assert done.stdout.startswith(f"no Dask scheduler answers at {address}: "), done.stdout + done.stderr
    assert (done.stderr, done.returncode) == ("", 0)
