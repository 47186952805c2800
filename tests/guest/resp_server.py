"""A server of RESP in this process, for the scripts that ask one: it replies what a test wants."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

Answer = Callable[[list[str]], str | int | bytes]
"""Gets the words of a request. A text or number is encoded; bytes are sent as they are."""


def encoded(answer: str | int | bytes) -> bytes:
    """An answer in the protocol."""
    if isinstance(answer, bytes):
        return answer
    if isinstance(answer, int):
        return b":%d\r\n" % answer
    data = answer.encode("latin-1")
    return b"$%d\r\n%s\r\n" % (len(data), data)


def words_of(stream: BinaryIO) -> list[str]:
    """The next request; empty at the end."""
    head = stream.readline()
    if not head.startswith(b"*"):
        return []
    words = []
    for _ in range(int(head[1:])):
        size = int(stream.readline()[1:])
        words.append(stream.read(size + 2)[:-2].decode("latin-1"))
    return words


@contextmanager
def serving(answer: Answer) -> Iterator[int]:
    """Answer requests until the end. Yields the port."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while words := words_of(cast(BinaryIO, self.rfile)):
                self.wfile.write(b"+PONG\r\n" if words == ["PING"] else encoded(answer(words)))

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A script that goes away early is no error."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
