"""A container engine that has one container, behind a socket: it answers as docker does, or does not answer at all.

As with docker, the container's lock is held as long as a file of it is sent, and a removal waits for that lock.
"""

from __future__ import annotations

import json
import re
import struct
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

CONTAINER = {
    "Id": "c1",
    "Name": "/x",
    "Config": {"Tty": False, "Labels": {}},
    "State": {"Status": "running"},
}
INFO = {"OSType": "linux", "Architecture": "x86_64", "NCPU": 2, "DockerRootDir": "/data/engine"}
FILE = 4 << 20
"""Bytes of the file that a container sends: more than sockets take by themselves."""


class StandInEngine:
    """What it does is decided by its fields."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.calls: list[str] = []
        """Method and path of each call, without the version."""
        self.deaf = ""
        """A pattern of calls that are not answered."""
        self.refused: dict[str, tuple[int, str]] = {}
        """Status and message by pattern of calls."""
        self.output = [b"begun\n"]
        """What the container prints."""
        self.executed: list[tuple[int, bytes]] = []
        """What a program in the container prints: the stream's number and the text."""
        self.events: list[dict[str, str]] = []
        """Of a build or a pull."""
        self.listed: list[dict[str, Any]] = []
        """Containers in the list of all."""
        self.images: list[dict[str, Any]] = []
        """Images in the list of all; by themselves they are not there."""
        self.status = 0
        self.lock = threading.Lock()
        """Of the container."""
        self.ended = threading.Event()
        """Whether the container has ended."""
        self.removed = threading.Event()
        self.closed = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: StandInEngine

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def address_string(self) -> str:
        return ""

    def _answer(self, data: object = None, status: int = 200) -> None:
        body = b"" if data is None else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _begin(self, **headers: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _send(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _handle(self) -> None:
        engine, path = self.engine, re.sub(r"^/v[0-9.]+", "", self.path.partition("?")[0])
        call = f"{self.command} {path}"
        engine.calls.append(call)
        self._body()
        if engine.deaf and re.fullmatch(engine.deaf, call):
            engine.closed.wait(60)
            self.close_connection = True
            return
        for pattern, (status, message) in engine.refused.items():
            if re.fullmatch(pattern, call):
                self._answer({"message": message}, status)
                return
        with suppress(BrokenPipeError, ConnectionResetError):
            self._known(call)

    def _body(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        else:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _known(self, call: str) -> None:
        engine = self.engine
        plain: dict[str, object] = {
            "GET /version": {"ApiVersion": "1.41"},
            "GET /info": INFO,
            "GET /_ping": "OK",
            "POST /containers/create": {"Id": "c1", "Warnings": []},
            "GET /containers/c1/json": CONTAINER,
            "PUT /containers/c1/archive": None,
            "POST /containers/c1/start": None,
            "POST /containers/c1/exec": {"Id": "e1"},
            "GET /exec/e1/json": {"ExitCode": 0},
            "GET /containers/json": engine.listed,
            "GET /networks": [],
            "GET /images/json": engine.images,
        }
        longer: dict[str, Callable[[], None]] = {
            "GET /containers/c1/logs": self._logs,
            "GET /containers/c1/archive": self._archive,
            "POST /containers/c1/wait": self._wait,
            "POST /containers/c1/kill": self._kill,
            "POST /exec/e1/start": self._execute,
            "POST /build": self._events,
            "POST /images/create": self._events,
        }
        if call in plain:
            self._answer(plain[call])
        elif call in longer:
            longer[call]()
        elif call.startswith("DELETE /containers/"):
            with engine.lock:
                engine.removed.set()
                self._answer(None, 204)
        else:
            self._answer({"message": f"no such thing: {call}"}, 404)

    def _logs(self) -> None:
        self._begin()
        for text in self.engine.output:
            self._send(struct.pack(">BxxxL", 1, len(text)) + text)
        self.engine.ended.wait(60)
        self._send(b"")

    def _wait(self) -> None:
        self.engine.ended.wait(60)
        self._answer({"StatusCode": self.engine.status})

    def _kill(self) -> None:
        self.engine.status = 137
        self.engine.ended.set()
        self._answer(None, 204)

    def _execute(self) -> None:
        """Run a program. What it prints is sent with the headers, as of a short program on a busy machine."""
        self.close_connection = True
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"
        frames = (struct.pack(">BxxxL", number, len(text)) + text for number, text in self.engine.executed)
        self.wfile.write(head + b"".join(frames))
        self.engine.ended.wait(60)

    def _events(self) -> None:
        self._begin(Content_Type="application/json")
        for event in self.engine.events:
            self._send(json.dumps(event).encode() + b"\r\n")
        self._send(b"")

    def _archive(self) -> None:
        info = tarfile.TarInfo("result")
        info.size = FILE
        with self.engine.lock:
            self._begin()
            self._send(info.tobuf(tarfile.GNU_FORMAT))
            for _ in range(FILE >> 20):
                self._send(bytes(1 << 20))
            self._send(bytes(2 * tarfile.BLOCKSIZE))
            self._send(b"")

    do_GET = do_POST = do_PUT = do_DELETE = _handle


class _Server(ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False


@contextmanager
def stand_in_engine() -> Iterator[StandInEngine]:
    """Serve one at a socket of its own."""
    with tempfile.TemporaryDirectory(prefix="pf-") as folder:  # a socket's path has at most 107 bytes
        engine = StandInEngine(f"unix://{folder}/s")
        handler = type("Handler", (_Handler,), {"engine": engine})
        with _Server(str(Path(folder, "s")), handler) as server:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            try:
                yield engine
            finally:
                engine.closed.set()
                engine.ended.set()
                server.shutdown()
