"""host/http.py and host/http_session.py against a server on this machine's loopback interface."""

from __future__ import annotations

import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from integration.dav import PROXIES, serving

from pikaforge.errors import EXIT_HOST, HostError, UnreachableError
from pikaforge.host import http
from pikaforge.host.http import HttpError, Login, Retries, TooLargeError
from pikaforge.host.http_session import Answer, Client

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
    monkeypatch.setattr(http, "TIMEOUT", (2.0, 0.3))


@pytest.mark.parametrize(("path", "body"), [("ok", b"From \xff\r\n"), ("empty", b""), ("moved", b"From \xff\r\n")])
def test_a_body_comes_as_it_is(url: str, path: str, body: bytes) -> None:
    assert http.get(f"{url}/{path}", limit=LIMIT) == body


def test_a_body_may_be_as_large_as_the_limit(url: str) -> None:
    assert len(http.get(f"{url}/exact", limit=LIMIT)) == LIMIT


@pytest.mark.parametrize(("path", "words"), [("absent", "404 Not Found"), ("down", "503 Service Unavailable")])
def test_a_server_that_refuses(url: str, path: str, words: str) -> None:
    with pytest.raises(HostError) as caught:
        http.get(f"{url}/{path}", limit=LIMIT)
    assert not isinstance(caught.value, UnreachableError), "it did answer"
    assert caught.value.message == f"{url}/{path} answers {words}"
    assert caught.value.hint == "open it in a browser: does it exist?"
    assert caught.value.exit_code == EXIT_HOST


@pytest.mark.parametrize("path", ["large", "endless"])
def test_a_body_beyond_the_limit(url: str, path: str) -> None:
    with pytest.raises(HostError) as caught:
        http.get(f"{url}/{path}", limit=LIMIT)
    assert not isinstance(caught.value, UnreachableError)
    assert caught.value.message == f"{url}/{path} is larger than 2 MiB"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("path", ["silent", "stalled"])
def test_a_server_that_stalls_is_given_up(url: str, path: str) -> None:
    with pytest.raises(UnreachableError) as caught:
        http.get(f"{url}/{path}", limit=LIMIT)
    assert caught.value.message.startswith(f"cannot reach {url}: ")
    assert "Read timed out" in caught.value.message


def test_half_a_body_is_no_body(url: str) -> None:
    with pytest.raises(UnreachableError, match=r"IncompleteRead|Connection broken"):
        http.get(f"{url}/cut", limit=LIMIT)


def test_a_circle_has_an_end(url: str) -> None:
    with pytest.raises(UnreachableError, match=r"Exceeded 30 redirects"):
        http.get(f"{url}/circle", limit=LIMIT)


def test_nobody_listens() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        where = f"http://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(UnreachableError) as caught:
            http.get(f"{where}/x", limit=LIMIT)
    assert caught.value.message.startswith(f"cannot reach {where}: ")
    assert "Connection refused" in caught.value.message
    assert "\n" not in caught.value.message


def test_a_name_that_is_not_known() -> None:
    with pytest.raises(UnreachableError, match=r"^cannot reach http://nobody\.invalid: "):
        http.get("http://nobody.invalid/x", limit=LIMIT)


def test_a_url_that_is_none() -> None:
    with pytest.raises(UnreachableError, match=r"^cannot reach "):
        http.get("ftp://example.org/x", limit=LIMIT)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a b.patch"
    path.write_bytes(b"x" * LIMIT)
    assert http.get(path.as_uri(), limit=LIMIT) == b"x" * LIMIT
    path.write_bytes(b"x" * (LIMIT + 1))
    with pytest.raises(HostError) as caught:
        http.get(path.as_uri(), limit=LIMIT)
    assert caught.value.message == f"{path.as_uri()} is larger than 2 MiB"
    with pytest.raises(HostError) as caught:
        http.get((tmp_path / "none").as_uri(), limit=LIMIT)
    assert caught.value.message == f"cannot read {(tmp_path / 'none').as_uri()}: No such file or directory"


# ---- clients


@dataclass
class Server:
    """A server that answers as its turns say, and what it was asked."""

    url: str = ""
    turns: list[Callable[[Scripted], None]] = field(default_factory=list)
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)
    """Method, path and body."""
    headers: list[Mapping[str, str]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)


class Scripted(BaseHTTPRequestHandler):
    """Answers by its server's turns, and then well."""

    server_of: Server
    protocol_version = "HTTP/1.1"
    timeout = 30

    def _take(self) -> None:
        server, size = self.server_of, int(self.headers.get("Content-Length") or 0)
        server.seen.append((self.command, self.path, self.rfile.read(size)))
        server.headers.append(dict(self.headers.items()))
        turn = server.turns.pop(0) if server.turns else well
        turn(self)

    do_GET = do_HEAD = do_PUT = do_MOVE = _take

    def answer(
        self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None, *, length: int | None = None
    ) -> None:
        """Answer, with a length that need not be the body's."""
        self.send_response_only(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        if length is not None:
            self.close_connection = True

    def endless(self, status: int, **headers: str) -> None:
        """Answer with a body that has no end."""
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            while not self.server_of.over.is_set():
                self.wfile.write(bytes(1 << 16))

    def log_message(self, format: str, *args: object) -> None:
        pass


Turn = Callable[[Scripted], None]


def well(handler: Scripted) -> None:
    handler.answer(200, b"content")


def refused(status: int, headers: Mapping[str, str] | None = None) -> Turn:
    return lambda handler: handler.answer(status, b"no", headers)


def cut(handler: Scripted) -> None:
    handler.answer(200, b"con", length=7)


def lost(handler: Scripted) -> None:
    """No answer."""
    handler.close_connection = True


def moved(url: str, status: int = 302) -> Turn:
    return lambda handler: handler.answer(status, b"", {"Location": url})


@pytest.fixture
def new_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Server]]:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as stack:

        def start() -> Server:
            made = Server()
            made.url = stack.enter_context(serving(type("ItsHandler", (Scripted,), {"server_of": made})))
            stack.callback(made.over.set)
            return made

        yield start


@pytest.fixture
def server(new_server: Callable[[], Server]) -> Server:
    return new_server()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def client(pauses: list[float]) -> Iterator[Client]:
    with Client(retries=Retries(tries=4, wait=pauses.append), timeout=(5.0, 5.0)) as made:
        yield made


def body(answer: Answer) -> bytes:
    return answer.body(100)


def status(answer: Answer) -> int:
    return answer.status


def status_after_body(answer: Answer) -> int:
    body(answer)
    return answer.status


def test_what_passes_is_tried_again_with_longer_and_longer_pauses(
    server: Server, client: Client, pauses: list[float]
) -> None:
    server.turns = [refused(503), lost, cut]
    assert client.ask("GET", f"{server.url}/x", body) == b"content"
    assert len(server.seen) == 4
    assert pauses == [1.0, 2.0]


@pytest.mark.parametrize("turn", [refused(500), lost, cut], ids=["refused", "lost", "cut"])
def test_tries_are_counted_together(server: Server, client: Client, turn: Turn) -> None:
    server.turns = [refused(503), lost, cut, turn, well]
    if turn is cut or turn is lost:
        with pytest.raises(HttpError) as caught:
            client.ask("GET", f"{server.url}/x", body)
        assert caught.value.kind == ("cut" if turn is cut else "connection")
        assert server.url not in str(caught.value)
    else:
        assert client.ask("GET", f"{server.url}/x", status_after_body) == 500
    assert len(server.seen) == 4


@pytest.mark.parametrize("status_", [200, 304, 400, 401, 403, 404, 405, 412, 413, 501, 505, 507])
def test_other_answers_are_given_at_once(server: Server, client: Client, status_: int) -> None:
    server.turns = [refused(status_)]
    assert client.ask("PUT", f"{server.url}/x", status, body=b"data") == status_
    assert len(server.seen) == 1


def test_a_status_can_be_an_answer(server: Server, client: Client) -> None:
    server.turns = [refused(409)]
    assert client.ask("PUT", f"{server.url}/x", status, final=(409,)) == 409
    server.turns = [refused(409), refused(500)]
    assert client.ask("PUT", f"{server.url}/x", status, final=(500,)) == 500
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("header", "pause"),
    [
        ("7", [7.0]),
        ("3600", [30.0]),
        ("9" * 4000, [30.0]),
        ("9" * 5000, []),
        ("Wed, 21 Oct 2015 07:28:00 GMT", []),
        ("Wed, 21 Oct 2999 07:28:00 GMT", [30.0]),
        ("soon", []),
        ("-5", []),
    ],
)
def test_a_server_says_how_long_to_wait_within_limits(
    server: Server, client: Client, pauses: list[float], header: str, pause: list[float]
) -> None:
    server.turns = [refused(429, {"Retry-After": header})]
    assert client.ask("GET", f"{server.url}/x", body) == b"content"
    assert pauses == pause


def test_refusals_and_redirects_are_not_read(server: Server, client: Client) -> None:
    server.turns = [
        lambda handler: handler.endless(503),
        lambda handler: handler.endless(302, Location="/there"),
        lambda handler: handler.endless(404),
    ]
    assert client.ask("GET", f"{server.url}/x", status) == 404
    assert [path for _, path, _ in server.seen] == ["/x", "/x", "/there"]


def test_a_body_has_a_limit(server: Server, client: Client) -> None:
    server.turns = [lambda handler: handler.endless(200)]
    with pytest.raises(TooLargeError, match="is larger than 1 MiB"):
        client.ask("GET", f"{server.url}/x", lambda answer: answer.body(1 << 20))
    assert len(server.seen) == 1


@pytest.mark.parametrize("size", [0, 5, 300_000])
def test_a_file_is_sent_whole_every_time(server: Server, client: Client, tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    server.turns = [refused(503), lost, cut]
    assert client.ask("PUT", f"{server.url}/x", body, body=path) == b"content"
    assert server.seen == [("PUT", "/x", bytes(size))] * 4
    assert all(headers.get("Content-Length") == str(size) for headers in server.headers)


def test_a_file_that_cannot_be_sent(server: Server, client: Client, tmp_path: Path) -> None:
    with pytest.raises(HttpError, match=r"^No such file or directory$") as caught:
        client.ask("PUT", f"{server.url}/x", body, body=tmp_path / "none")
    assert caught.value.kind == "file"
    assert server.seen == []


def test_writing_is_not_redirected(server: Server, client: Client) -> None:
    for method in ("PUT", "MOVE"):
        server.turns = [moved("/there")]
        assert client.ask(method, f"{server.url}/x", status) == 302
    assert len(server.seen) == 2


def test_a_login_stays_with_its_server(
    new_server: Callable[[], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = new_server(), new_server()
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login x password y\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    own.turns = [moved(f"{other.url}/there")]
    other.turns = [moved(f"{own.url}/back")]
    with Client(retries=Retries(), login=Login(url=own.url, header="Bearer t")) as client:
        assert client.ask("GET", f"{own.url}/x", body) == b"content"
    assert [headers.get("Authorization") for headers in own.headers] == ["Bearer t", "Bearer t"]
    assert [headers.get("Authorization") for headers in other.headers] == [None]
    with Client(retries=Retries()) as client:
        client.ask("GET", own.url, body)
    assert own.headers[-1].get("Authorization", "").startswith("Basic "), "else the netrc was not in the way"


def test_a_connection_is_used_again_after_a_short_answer(server: Server, client: Client) -> None:
    peers = set()

    def turn(handler: Scripted) -> None:
        peers.add(handler.client_address)
        handler.answer(201, b"made")

    server.turns = [turn] * 3
    for _ in range(3):
        client.ask("PUT", f"{server.url}/x", lambda answer: answer.drain())
    assert len(peers) == 1


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("http://[x", "url"),
        ("http://127.0.0.1:port/", "url"),
        ("x", "url"),
        ("ftp://127.0.0.1/", "url"),
        ("http://nobody.invalid/", "name"),
    ],
)
def test_a_url_that_leads_nowhere(client: Client, pauses: list[float], url: str, kind: str) -> None:
    with pytest.raises(HttpError) as caught:
        client.ask("GET", url, body)
    assert caught.value.kind == kind
    assert pauses == []


def test_a_server_without_tls_is_named(server: Server, client: Client) -> None:
    with pytest.raises(HttpError, match=r"^it does not speak TLS at this port$") as caught:
        client.ask("GET", server.url.replace("http:", "https:"), body)
    assert caught.value.kind == "tls"


def with_secrets(url: str) -> str:
    return f"{url.replace('://', '://user:s3cr3t@')}/x?key=s3cr3t"


def test_no_object_of_requests_is_left_in_an_error(client: Client) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = with_secrets(f"http://127.0.0.1:{held.getsockname()[1]}")
        with pytest.raises(HttpError) as caught:
            client.ask("GET", url, body)
    shown = "".join(traceback.format_exception(caught.value))
    assert "s3cr3t" not in shown
    assert "Connection refused" in str(caught.value)
