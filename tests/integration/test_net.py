"""host/net.py against a server on this machine's loopback interface."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pikaforge.errors import EXIT_HOST, HostError, UnreachableError
from pikaforge.host import net

LIMIT = 2 << 20


class Handler(BaseHTTPRequestHandler):
    """Answers by the path."""

    released = threading.Event()

    def do_GET(self) -> None:
        answer: Callable[[], None] = getattr(self, f"answer_{self.path.strip('/').replace('-', '_')}", self.answer_none)
        answer()

    def _send(self, status: int, body: bytes, *, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def answer_none(self) -> None:
        self._send(404, b"nothing here")

    def answer_ok(self) -> None:
        self._send(200, b"From \xff\r\n")

    def answer_empty(self) -> None:
        self._send(200, b"")

    def answer_moved(self) -> None:
        self.send_response(302)
        self.send_header("Location", "/ok")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer_circle(self) -> None:
        self.send_response(302)
        self.send_header("Location", "/circle")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer_down(self) -> None:
        self._send(503, b"")

    def answer_exact(self) -> None:
        self._send(200, b"x" * LIMIT)

    def answer_large(self) -> None:
        self._send(200, b"x" * (LIMIT + 1))

    def answer_endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while not self.released.is_set():
                self.wfile.write(b"x" * (1 << 16))
        except OSError:
            pass

    def answer_silent(self) -> None:
        self.released.wait(30)

    def answer_stalled(self) -> None:
        self._send(200, b"half", length=8)
        self.released.wait(30)

    def answer_cut(self) -> None:
        self._send(200, b"half", length=8)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    Handler.released.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    Handler.released.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net, "TIMEOUT", (2.0, 0.3))


@pytest.mark.parametrize(("path", "body"), [("ok", b"From \xff\r\n"), ("empty", b""), ("moved", b"From \xff\r\n")])
def test_a_body_comes_as_it_is(url: str, path: str, body: bytes) -> None:
    assert net.get(f"{url}/{path}", limit=LIMIT) == body


def test_a_body_may_be_as_large_as_the_limit(url: str) -> None:
    assert len(net.get(f"{url}/exact", limit=LIMIT)) == LIMIT


@pytest.mark.parametrize(("path", "words"), [("absent", "404 Not Found"), ("down", "503 Service Unavailable")])
def test_a_server_that_refuses(url: str, path: str, words: str) -> None:
    with pytest.raises(HostError) as caught:
        net.get(f"{url}/{path}", limit=LIMIT)
    assert not isinstance(caught.value, UnreachableError), "it did answer"
    assert caught.value.message == f"{url}/{path} answers {words}"
    assert caught.value.hint == "open it in a browser: does it exist?"
    assert caught.value.exit_code == EXIT_HOST


@pytest.mark.parametrize("path", ["large", "endless"])
def test_a_body_beyond_the_limit(url: str, path: str) -> None:
    with pytest.raises(HostError) as caught:
        net.get(f"{url}/{path}", limit=LIMIT)
    assert not isinstance(caught.value, UnreachableError)
    assert caught.value.message == f"{url}/{path} is larger than 2 MiB"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("path", ["silent", "stalled"])
def test_a_server_that_stalls_is_given_up(url: str, path: str) -> None:
    start = time.monotonic()
    with pytest.raises(UnreachableError) as caught:
        net.get(f"{url}/{path}", limit=LIMIT)
    assert time.monotonic() - start < 10
    assert caught.value.message.startswith(f"cannot reach {url}: ")
    assert "Read timed out" in caught.value.message


def test_half_a_body_is_no_body(url: str) -> None:
    with pytest.raises(UnreachableError, match=r"IncompleteRead|Connection broken"):
        net.get(f"{url}/cut", limit=LIMIT)


def test_a_circle_has_an_end(url: str) -> None:
    with pytest.raises(UnreachableError, match=r"Exceeded 30 redirects"):
        net.get(f"{url}/circle", limit=LIMIT)


def test_nobody_listens() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        where = f"http://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(UnreachableError) as caught:
            net.get(f"{where}/x", limit=LIMIT)
    assert caught.value.message.startswith(f"cannot reach {where}: ")
    assert "Connection refused" in caught.value.message
    assert "\n" not in caught.value.message


def test_a_name_that_is_not_known() -> None:
    with pytest.raises(UnreachableError, match=r"^cannot reach http://nobody\.invalid: "):
        net.get("http://nobody.invalid/x", limit=LIMIT)


def test_a_url_that_is_none() -> None:
    with pytest.raises(UnreachableError, match=r"^cannot reach "):
        net.get("ftp://example.org/x", limit=LIMIT)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a b.patch"
    path.write_bytes(b"x" * LIMIT)
    assert net.get(path.as_uri(), limit=LIMIT) == b"x" * LIMIT
    path.write_bytes(b"x" * (LIMIT + 1))
    with pytest.raises(HostError) as caught:
        net.get(path.as_uri(), limit=LIMIT)
    assert caught.value.message == f"{path.as_uri()} is larger than 2 MiB"
    with pytest.raises(HostError) as caught:
        net.get((tmp_path / "none").as_uri(), limit=LIMIT)
    assert caught.value.message == f"cannot read {(tmp_path / 'none').as_uri()}: No such file or directory"
