"""Requests that are tried again, bodies that are never trusted unread, and errors that say what to do.

Nothing here shows a secret: URLs are redacted, headers are not shown, and exceptions of requests, which hold the whole
request, are left behind where they were caught.
"""

from __future__ import annotations

import base64
import ipaddress
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from pikaforge.errors import ConfigError, PublishError
from pikaforge.host.net import brief, redacted
from pikaforge.publish.sites import credentials as who
from pikaforge.publish.sites.credentials import Credentials

if TYPE_CHECKING:
    from requests import PreparedRequest, Response, Session

TIMEOUT = (10.0, 30.0)
"""Seconds to connect, and between two reads or writes."""
TRIES = 5
"""How often a request is made before it is given up."""
PAUSE = 0.5
"""Seconds before the second try; twice as many before each further one."""
BLOCK = 1 << 16
LIMIT = 256 << 20
TRANSIENT = frozenset({408, 409, 423, 425, 429})
"""Refusals that may be over soon; all other 4xx are final."""
FINAL = frozenset({501, 505, 507})
"""Failures of the server that time does not heal."""

Content = Path | bytes
T = TypeVar("T")


class RefusedError(PublishError):
    """The server answered with a status that ends it."""

    def __init__(self, message: str, *, where: str, hint: str, status: int) -> None:
        super().__init__(message, where=where, hint=hint)
        self.status = status


class _AgainError(Exception):
    """What may go better the next time; the text says what went wrong."""


def quiet(_text: str) -> None:
    """Where notices go if nobody listens."""


def loopback(url: str) -> bool:
    """Whether a URL is of this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Client:
    """Makes requests with the credentials of one server, to which alone they go. One thread at a time."""

    def __init__(
        self,
        url: str,
        credentials: Credentials | None,
        *,
        target: str,
        timeout: tuple[float, float] = TIMEOUT,
        tries: int = TRIES,
        pause: float = PAUSE,
    ) -> None:
        """Make no request yet.

        Args:
            url: of the server; what lies at the same host and port gets the credentials.
            credentials: of the publisher.
            target: the publish target's name, for hints.
            timeout: seconds to connect, and between two reads or writes.
            tries: how often a request is made.
            pause: seconds before the second try.

        Raises:
            ConfigError: the URL is not one of http or https, or has a user or password in it.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{redacted(url)} is not an http or https URL", where=f"publish target {target}")
        if "@" in parts.netloc:
            raise ConfigError(
                f"there are credentials in {redacted(url)}",
                where=f"publish target {target}",
                hint=f"take them out; {who.advice(target, url)}",
            )
        self._url = url
        self._target = target
        self._timeout = timeout
        self._tries = tries
        self._pause = pause
        self._session = _session(url, credentials)

    def get(self, url: str, *, limit: int = LIMIT) -> bytes | None:
        """A body of at most `limit` bytes; None if there is none (404)."""

        return self.ask("GET", url, lambda answer: read_body(answer, limit), also=(404,))

    def look(self, url: str) -> Mapping[str, str] | None:
        """The headers of a file; None if there is none (404)."""
        return self.ask("HEAD", url, lambda answer: answer.headers, also=(404,))

    def ask(
        self,
        method: str,
        url: str,
        read: Callable[[Response], T],
        *,
        body: Content | None = None,
        headers: Mapping[str, str] | None = None,
        also: Container[int] = (),
    ) -> T | None:
        """Make a request, several times if it must be.

        Args:
            method: of HTTP.
            url: where.
            read: makes the result out of a 2xx answer; a body that is cut or stalls is asked for again.
            body: what is sent.
            headers: further ones.
            also: other statuses that are no failure; the result is None then.

        Raises:
            RefusedError: the server says no.
            PublishError: there is no way to the server, or it goes on failing.
        """
        failures: list[str] = []
        for left in reversed(range(self._tries)):
            try:
                with closing(self._send(method, url, body, headers)) as answer:
                    if answer.status_code in also:
                        return None
                    self._judge(answer, method, url, last=not left)
                    return self._hear(read, answer)
            except _AgainError as again:
                failures.append(str(again))
            if left:
                time.sleep(self._pause * 2 ** (self._tries - 1 - left))
        times = f", {self._tries} times" if self._tries > 1 else ""
        raise PublishError(
            f"{method} failed{times}: {failures[-1]}",
            where=redacted(url),
            hint="is the server, or the way to it, down?",
        )

    def _send(self, method: str, url: str, body: Content | None, headers: Mapping[str, str] | None) -> Response:
        from requests import exceptions  # noqa: PLC0415

        stream: IO[bytes] | None = None
        data: IO[bytes] | bytes | None = None
        try:
            if not isinstance(body, Path):
                data = body
            elif not body.stat().st_size:  # as a stream it would be sent in chunks, which not every server takes
                data = b""
            else:
                data = stream = body.open("rb")
            return self._session.request(
                method,
                url,
                data=data,
                headers=dict(headers or {}),
                timeout=self._timeout,
                stream=True,
                allow_redirects=method in ("GET", "HEAD"),
            )
        except exceptions.SSLError as error:
            raise self._unreachable(
                method, url, error, "is its certificate expired, or by an authority that REQUESTS_CA_BUNDLE must name?"
            ) from None
        except exceptions.ProxyError as error:
            raise _AgainError(f"the proxy does not answer: {brief(error)}") from None
        except exceptions.RequestException as error:
            if "NameResolution" in repr(error) or "Failed to resolve" in str(error):
                raise self._unreachable(method, url, error, "is the host's name right?") from None
            if not isinstance(error, exceptions.ConnectionError | exceptions.Timeout):
                raise self._unreachable(method, url, error, "is the URL right?") from None
            raise _AgainError(brief(error)) from None
        except OSError as error:  # requests has its own exceptions below OSError, so this is the file's
            raise PublishError(f"cannot read what is to be published: {error.strerror}", where=str(body)) from error
        finally:
            if stream is not None:
                stream.close()

    def _hear(self, read: Callable[[Response], T], answer: Response) -> T:
        import urllib3  # noqa: PLC0415
        from requests import exceptions  # noqa: PLC0415

        try:
            return read(answer)
        except (exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _AgainError(f"the answer was cut off: {brief(error)}") from None

    def _judge(self, answer: Response, method: str, url: str, *, last: bool) -> None:
        """Go on with 2xx alone."""
        status = answer.status_code
        if 200 <= status < 300:
            return
        told = f"{method} was answered {status} {_phrase(status)}"
        passing = status in TRANSIENT or (status >= 500 and status not in FINAL)
        if passing and not last:
            raise _AgainError(told)
        times = f", {self._tries} times" if passing and self._tries > 1 else ""
        raise RefusedError(told + times, where=redacted(url), hint=self._hint(answer), status=status)

    def _hint(self, answer: Response) -> str:
        status = answer.status_code
        if status in (401, 403):
            return f"are the credentials right, and may they write there? {who.advice(self._target, self._url)}"
        if status in (404, 405, 501):
            return "does the server take PUT and DELETE there? Is the target's URL right?"
        if status == 409:
            return "the server does not make folders (MKCOL): make the one that is missing there"
        if status in (413, 507):
            return "the file is too large for the server (nginx: client_max_body_size), or its disk is full"
        if 300 <= status < 400:
            return f"give the URL that it names: {redacted(answer.headers.get('Location', '(none)'))}"
        return "its log says why; is its disk full?" if status >= 500 else "its log says why"

    def _unreachable(self, method: str, url: str, error: Exception, hint: str) -> PublishError:
        return PublishError(f"{method} cannot reach the server: {brief(error)}", where=redacted(url), hint=hint)


def _phrase(status: int) -> str:
    """Of the standard and not the server's own, which could be anything."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def blocks(answer: Response) -> Iterator[bytes]:
    """A body as it is stored: a server that calls `.gz` an encoding must not have it undone."""
    from requests import exceptions  # noqa: PLC0415

    length = answer.headers.get("Content-Length", "")
    expected = int(length) if length.isdecimal() and "Transfer-Encoding" not in answer.headers else None
    received = 0
    for block in answer.raw.stream(BLOCK, decode_content=False):
        received += len(block)
        yield block
    if expected is not None and received != expected:  # not every version of urllib3 counts
        raise exceptions.ConnectionError(f"{received} of {expected} bytes came")


def read_body(answer: Response, limit: int) -> bytes:
    """A body of at most `limit` bytes, or a PublishError."""
    body = bytearray()
    for block in blocks(answer):
        body += block
        if len(body) > limit:
            raise PublishError(f"the file is larger than {limit >> 20} MiB", where=redacted(answer.url))
    return bytes(body)


def warn_if_plain(url: str, credentials: Credentials | None, notice: Callable[[str], None]) -> None:
    """Say that credentials go over a network unencrypted, where they do."""
    if credentials is not None and url.startswith("http:") and not loopback(url):
        notice(f"{redacted(url)} is plain http: whoever is on the way can read the credentials")


def _session(url: str, credentials: Credentials | None) -> Session:
    """A session that sends credentials to the host of `url` alone; proxies are from the environment, netrc is not."""
    import requests  # noqa: PLC0415  # 0.1 s that nothing else needs

    header = _authorization(credentials)
    ours = _origin(url)

    class Auth(requests.auth.AuthBase):
        def __call__(self, request: PreparedRequest) -> PreparedRequest:
            if header and _origin(request.url or "") == ours:
                request.headers["Authorization"] = header
            return request

    class Own(requests.Session):
        def rebuild_auth(self, prepared_request: PreparedRequest, response: Response) -> None:
            """After a redirect; requests would look into ~/.netrc."""
            prepared_request.headers.pop("Authorization", None)
            Auth()(prepared_request)

    session = Own()
    session.auth = Auth()
    session.headers.update({"Accept-Encoding": "identity", "Cache-Control": "no-cache", "User-Agent": "pikaforge"})
    return session


def _authorization(credentials: Credentials | None) -> str:
    if credentials is None:
        return ""
    if credentials.token:
        return f"Bearer {credentials.token}"
    pair = f"{credentials.user}:{credentials.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
