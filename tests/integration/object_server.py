"""A small server that takes GET, HEAD, PUT, DELETE, and MKCOL and MOVE if it is to know WebDAV. Files are in memory."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from integration.dav import serving


@dataclass(slots=True)
class ObjectServer:
    """What a server holds, and how it behaves."""

    dav: bool = False
    """Whether it knows MOVE and MKCOL, and wants folders to be made."""
    careless: bool = False
    """Whether it keeps what has come of an upload that is cut."""
    readers: str = ""
    """Value of the header of who may read; "": everybody."""
    writers: str = ""
    held: dict[str, bytes] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    log: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and authorization of each request."""
    refuses: dict[str, int] = field(default_factory=dict)
    """Status that a method is answered."""
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)


def basic(user: str, password: str) -> str:
    """The header of a user."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


class _Handler(BaseHTTPRequestHandler):
    server_data: ObjectServer
    protocol_version = "HTTP/1.1"

    def _take(self) -> None:
        data = self.server_data
        path = urlsplit(self.path).path.strip("/")
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        if len(body) < size and not data.careless:
            self.close_connection = True
            return
        given = self.headers.get("Authorization", "")
        with data.lock:
            data.log.append((self.command, path, given))
            wanted = data.readers if self.command in ("GET", "HEAD") else data.writers
            if wanted and given != wanted:
                self._answer(403 if given else 401)
            elif self.command in data.refuses:
                self._answer(data.refuses[self.command])
            else:
                self._answer(*self._done(data, path, body))

    def _done(self, data: ObjectServer, path: str, body: bytes) -> tuple[int, bytes]:
        status, answer = 405, b""
        match self.command:
            case "GET" | "HEAD":
                status, answer = (200, data.held[path]) if path in data.held else (404, b"none")
            case "PUT":
                status = 409 if data.dav and path.rpartition("/")[0] not in {"", *data.folders} else 201
                if status == 201:
                    data.held[path] = body
            case "DELETE":
                status = 204 if data.held.pop(path, None) is not None else 404
            case "MKCOL" if data.dav:
                data.folders.add(path)
                status = 201
            case "MOVE" if data.dav:
                status = 201 if path in data.held else 404
                if status == 201:
                    data.held[urlsplit(self.headers["Destination"]).path.strip("/")] = data.held.pop(path)
        return status, answer

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_MOVE = do_MKCOL = _take

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def object_server(**options: object) -> Iterator[ObjectServer]:
    """A server while the block runs."""
    data = ObjectServer(**options)  # type: ignore[arg-type]
    with serving(type("Handler", (_Handler,), {"server_data": data})) as url:
        data.url = url
        yield data
