"""HTTP: retries, logins, errors, and what may be shown of a URL. `http_session` makes the requests.

It is a module of its own because requests takes 0.1 s to import. A run that makes no request does not import it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

from pikaforge.errors import AnswerError, UnreachableError
from pikaforge.host.text import size_text

if TYPE_CHECKING:
    from pikaforge.host.http_session import Answer

TIMEOUT = (10.0, 30.0)
"""Seconds to connect, and between two reads or writes."""
BLOCK = 1 << 16
"""Bytes of a body that are read at once."""
TRANSIENT = frozenset({408, 409, 423, 425, 429, *range(500, 600)}) - {501, 505, 507}
"""Statuses that may be other ones soon. A later try does not help against 501, 505 and 507."""
PORTS = {"http": 80, "https": 443}
TLS_REASONS = {
    "WRONG_VERSION_NUMBER": "it does not speak TLS at this port",
    "RECORD_LAYER_FAILURE": "it does not speak TLS at this port",
    "HTTP_REQUEST": "it does not speak TLS at this port",
    "UNSUPPORTED_PROTOCOL": "it speaks only versions of TLS that are too old",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it speaks no version of TLS that this machine speaks",
}
"""Plain words for reasons of OpenSSL."""

Content = Path | bytes
"""What is sent: a file, or bytes."""

ErrorKind = Literal["tls", "name", "url", "connection", "redirect", "file", "cut", "size", "slow"]


class HttpError(Exception):
    """A request got no answer, or a part of one only. The text has neither the URL nor a secret in it.

    Callers turn it into a ForgeError that says what was wanted.
    """

    def __init__(self, reason: str, kind: ErrorKind) -> None:
        super().__init__(reason)
        self.kind = kind
        """`tls`: no encrypted connection. `name`: the host's name is unknown. `url`: the URL cannot be used.
        `connection`: no answer. `redirect`: it leads to where it must not. `file`: the file to be sent cannot be read.
        `cut`: see `CutError`. `size`: see `TooLargeError`.
        `slow`: the time that the caller gives is over."""


class CutError(HttpError):
    """A body ended early, or stalled."""

    def __init__(self, reason: str, *, received: int) -> None:
        super().__init__(reason, "cut")
        self.received = received
        """Bytes of this body that did come."""


class TooLargeError(HttpError):
    """A body has more bytes than the caller takes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"is larger than {size_text(limit)}", "size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often a request is made, and how long is waited before it is made again."""

    tries: int = 5
    """In all. A status of `TRANSIENT` leads to another try."""
    connections: bool = True
    """Whether it is also made again if no answer came, or if the body of an answer was cut."""
    pause: float = 0.5
    """The second try is made at once; before the third, twice as many seconds are waited, then twice as long."""
    longest: float = 30.0
    """Most seconds that a server can ask to be waited, by Retry-After (RFC 9110, section 10.2.3)."""
    wait: Callable[[float], object] = time.sleep
    """Waits for so many seconds."""


SMALL = Retries(tries=3)
"""For small files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Credentials for one server. They are sent to that server only, also after redirects. ~/.netrc is not read."""

    url: str
    """A URL of the server; scheme, host and port count."""
    header: str = field(repr=False)
    """Value of the header `Authorization`; "" without credentials."""

    def fits(self, url: str) -> bool:
        """Return whether a URL is of the server."""
        return _origin(url) == _origin(self.url)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or PORTS.get(parts.scheme)


def phrase(status: int) -> str:
    """Return a status with the standard's words, `404 Not Found`; the server's own could be anything."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def redacted(url: str) -> str:
    """Return a URL as it may be shown: without its user, password, query values and fragment, which may be secrets."""
    scheme, colon, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    if colon and "@" in authority:  # first, because a `#` or `?` in a password would end the authority
        url = f"{scheme}{colon}***@{authority.rpartition('@')[2]}{slash}{path}"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # it cannot be known which part of it is a password
        return f"{url.partition(':')[0]}:***" if {*"@?#"} & {*url} else url
    if not parts.netloc and parts.scheme != "file" and "@" in url:  # user:password@host without a scheme
        return f"***@{url.rpartition('@')[2].partition('?')[0]}"
    _, at, host = parts.netloc.rpartition("@")
    return parts._replace(
        netloc=f"***@{host}" if at else host, query="***" if parts.query else "", fragment=""
    ).geturl()


def local_path(url: str) -> Path:
    """Return the path of a file:// URL."""
    return Path(unquote(urlsplit(url).path))


def get(url: str, *, limit: int) -> bytes:
    """Return the body behind a URL (http, https or file).

    Raises:
        UnreachableError: there is no way to the server.
        HostError: the server refuses, or the body has more than `limit` bytes.
    """
    if url.startswith("file:"):
        return _read_file(url, limit)
    from pikaforge.host.http_session import Client  # noqa: PLC0415  # imports requests

    def read(answer: Answer) -> bytes:
        if answer.status != HTTPStatus.OK:
            hint = "open it in a browser: does it exist?"
            raise AnswerError(f"{redacted(url)} answers {phrase(answer.status)}", hint=hint)
        return answer.body(limit)

    try:
        with Client(retries=SMALL) as client:
            return client.ask("GET", url, read)
    except TooLargeError as error:
        raise AnswerError(f"{redacted(url)} {error}") from None
    except HttpError as error:
        raise UnreachableError(f"cannot reach {_server(url)}: {error}") from None


def _server(url: str) -> str:
    """Return scheme and host of a URL; the URL itself where it has none."""
    shown = redacted(url)
    scheme, colon, rest = shown.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if colon else shown


def _read_file(url: str, limit: int) -> bytes:
    try:
        with local_path(url).open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        raise AnswerError(f"cannot read {redacted(url)}: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > limit:
        raise AnswerError(f"{redacted(url)} {TooLargeError(limit)}")
    return data
