"""A web server for publishers and readers: nginx of Debian with WebDAV in a container, and a way to it that fails."""

from __future__ import annotations

import base64
import http.client
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from execs import run_in
from integration.images import base_of, image_of

from pikaforge.host.job import files
from pikaforge.publish.sites.credentials import Credentials

if TYPE_CHECKING:
    from conftest import Engine
    from docker.models.containers import Container

    from .conftest import Warm

ROOT = "/srv/dav/root"
WRITER = Credentials(user="writer", password="zebra crossing:7")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")

IMAGE = """\
FROM {base}
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \\
 && apt-get install -y --no-install-recommends nginx-light \\
 && rm -rf /var/lib/apt/lists/*
"""

CONFIGURATION = """\
user www-data;
worker_processes 2;
daemon off;
pid /run/nginx.pid;
error_log /var/log/nginx/errors.log;
events { worker_connections 256; }
http {
    default_type application/octet-stream;
    log_format dav '$server_port $status $request_method $uri $http_destination';
    access_log /var/log/nginx/dav.log dav;
    client_body_temp_path /srv/dav/tmp;
    client_max_body_size 8m;
    root /srv/dav/root;
    open_file_cache off;
    server {
        listen 80;
        auth_basic publishers;
        auth_basic_user_file /etc/nginx/writers;
        location / { dav_methods PUT DELETE MKCOL MOVE; create_full_put_path on; dav_access user:rw group:r all:r; }
    }
    server { listen 81; }
    server {
        listen 82;
        auth_basic publishers;
        auth_basic_user_file /etc/nginx/writers;
        location / { dav_methods PUT DELETE MKCOL MOVE; dav_access user:rw group:r all:r; }
    }
}
"""
"""Port 80 is for publishers; 81 for readers, who need no password and can change nothing; 82 makes no folders."""

START = (
    "mkdir -p /srv/dav/root /srv/dav/tmp && chown www-data: /srv/dav/root /srv/dav/tmp"
    " && rm -f /etc/nginx/sites-enabled/* && exec nginx -c /etc/nginx/test.conf"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dav:
    """A server that runs."""

    container: Container
    address: str
    root: str = ROOT
    """Where the files are in the container."""
    credentials: Credentials = WRITER

    @property
    def url(self) -> str:
        """For publishers, who need the credentials."""
        return f"http://{self.address}"

    @property
    def readers(self) -> str:
        """The same files for everybody, read-only."""
        return f"http://{self.address}:81"

    @property
    def without_folders(self) -> str:
        """For publishers, too, but folders are made by MKCOL alone."""
        return f"http://{self.address}:82"

    def exec(self, *argv: str) -> str:
        """Run a program in the container; its output."""
        status, output = run_in(self.container, argv)
        assert status == 0, output.decode("utf-8", "replace")
        return output.decode("utf-8", "replace")

    def access_log(self) -> list[str]:
        """Requests that ended: port, status, method, path, destination."""
        return self.exec("cat", "/var/log/nginx/dav.log").splitlines()

    def listing(self, folder: str = "") -> list[str]:
        """The files below a folder of the root, relative to it."""
        output = self.exec("sh", "-c", f"cd {self.root}/{folder} 2>/dev/null && find . -type f | sort || :")
        return [line.removeprefix("./") for line in output.splitlines()]


def nginx_image(engine: Engine, warm: Warm) -> str:
    """The runtime image of Debian 12 with nginx."""
    return image_of(engine, IMAGE.format(base=base_of(warm)), "nginx")


@contextmanager
def dav_of(engine: Engine, image: str, until: Callable[..., None], *, size: str = "") -> Iterator[Dav]:
    """A server that runs while the block does.

    Args:
        engine: where it runs.
        image: of `nginx_image`.
        until: the fixture.
        size: of the file system that the root is on; without it, there is plenty.
    """
    options: dict[str, Any] = {"tmpfs": {"/srv/dav": f"size={size},mode=0755"}} if size else {}
    container = engine.client.containers.create(image, ["sh", "-ec", START], init=True, **options)
    try:
        digest = base64.b64encode(sha1(WRITER.password.encode(), usedforsecurity=False).digest()).decode()
        line = f"{WRITER.user}:{{SHA}}{digest}\n"
        container.put_archive("/etc/nginx", files({"test.conf": CONFIGURATION.encode(), "writers": line.encode()}))
        container.start()
        container.reload()
        address = container.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        dav = Dav(container=container, address=address)
        until(lambda: fetched(f"{dav.readers}/") is not None, "nginx answers", 30)
        yield dav
    finally:
        container.remove(force=True)


def fetched(url: str) -> tuple[int, bytes] | None:
    """Status and body, as any reader gets them; None while nobody answers."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return None
    finally:
        connection.close()


@dataclass(slots=True)
class Fault:
    """What goes wrong with a request."""

    kind: str
    """cut-put, stall, status, cut-get, flip, lost-answer, or call."""
    method: str
    part: str = ""
    """What its path has in it."""
    skip: int = 0
    """How many such requests go well before."""
    times: int = 1
    status: int = 500
    call: Callable[[], object] = lambda: None
    """For `call`: what is done before the request goes on."""
    hits: int = 0

    def takes(self, method: str, path: str) -> bool:
        """Whether it is this request's turn; counts it then."""
        if method != self.method or self.part not in path or self.hits >= self.times:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.hits += 1
        return True


@dataclass(slots=True)
class Way:
    """A proxy on loopback before a server, which does what its faults say."""

    server: str
    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    released: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    way: Way
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    """So that an answer is sent at once, and nobody waits for the rest of it."""

    def _take(self) -> None:
        with self.way.lock:
            fault = next((fault for fault in self.way.faults if fault.takes(self.command, self.path)), None)
        kind = "" if fault is None else fault.kind
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size // 2 if kind == "cut-put" else size)
        with suppress(OSError):
            if kind == "stall":
                self.way.released.wait(30)
                self.close_connection = True
            elif kind == "cut-put":
                self._forward(body, size)
                self.close_connection = True
            elif kind == "status":
                assert fault is not None
                self._answer(fault.status, {}, b"no")
            else:
                if kind == "call":
                    assert fault is not None
                    fault.call()
                if kind == "flip":
                    body = bytes([body[0] ^ 1]) + body[1:]
                self._finish(kind, *self._forward(body, size))

    def _forward(self, body: bytes, size: int) -> tuple[int, Mapping[str, str], bytes]:
        parts = urlsplit(self.way.server)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            if len(body) < size:
                return 0, {}, b""
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def _finish(self, kind: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        if kind == "lost-answer":
            self.close_connection = True
        elif kind == "cut-get":
            self._answer(status, headers, body[: len(body) // 2], length=len(body))
            self.close_connection = True
        else:
            self._answer(status, headers, body)

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes, *, length: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        told = len(body) if length is None else length
        if self.command == "HEAD":
            told = int({name.lower(): value for name, value in headers.items()}.get("content-length", "0"))
        self.send_header("Content-Length", str(told))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_MOVE = do_MKCOL = _take

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def way_to(server: str, *faults: Fault) -> Iterator[Way]:
    """A proxy while the block runs."""
    way = Way(server=server, faults=list(faults))
    handler = type("Handler", (_Handler,), {"way": way})
    with serving(handler) as url:
        way.url = url
        try:
            yield way
        finally:
            way.released.set()


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server on loopback while the block runs; its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
