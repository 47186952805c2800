"""Servers that never end: they send a byte now and then, or bytes without an end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler

from integration.dav import serving

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n"
SLOW = {
    "body": HEAD + b"\r\n",
    "body without a length": b"HTTP/1.1 200 OK\r\n\r\n",
    "header": HEAD + b"X-Slow: ",
    "status": b"HTTP/1.1 2",
    "interim answers": b"",
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;",
    "trailer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ",
}


@contextmanager
def dripping(begin: bytes, drop: bytes) -> Iterator[str]:
    """A server that answers with a begin, and then a drop now and then without an end."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                self.request.recv(1 << 16)
                self.request.sendall(begin)
                while not over.wait(0.2):
                    self.request.sendall(drop)

    with serving(Handler) as url:
        try:
            yield url
        finally:
            over.set()


def drop_of(part: str) -> bytes:
    """What comes now and then in a part of an answer."""
    return b"HTTP/1.1 100 Continue\r\n\r\n" if part == "interim answers" else b"1"


@contextmanager
def endless(status: int, length: int) -> Iterator[str]:
    """A server whose HEAD says that an object has a length, and whose other answers have no end."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # which has "Expect: 100-continue"

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Connection", "close")
            self.end_headers()
            with suppress(OSError):
                while True:
                    self.wfile.write(bytes(1 << 20))

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        do_POST = do_PUT

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        yield url
