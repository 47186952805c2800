"""Requests of a publisher: with its credentials, and with errors that say what to do."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from pikaforge.errors import DestinationError, PublishError
from pikaforge.host.http import (
    TRANSIENT,
    Content,
    ErrorKind,
    HttpError,
    Login,
    Retries,
    TooLargeError,
    phrase,
    redacted,
)
from pikaforge.publish.sites.credentials import Credentials, advice

if TYPE_CHECKING:
    from pikaforge.host.http_session import Answer, Client

RETRIES = Retries(tries=5)
LIMIT = 256 << 20
"""Bytes of a body that is kept in memory."""
HINTS: Mapping[ErrorKind, str] = {
    "tls": "is its certificate expired, or by an authority that REQUESTS_CA_BUNDLE must name?",
    "name": "is the host's name right?",
    "url": "is the URL right?",
    "redirect": "is the URL right?",
}
"""By what is wrong, where another try cannot help."""

T = TypeVar("T")


class RefusedError(PublishError):
    """The server answered with a status that ends it."""

    kind = "E-refused"

    def __init__(self, message: str, *, where: str, hint: str, status: int) -> None:
        super().__init__(message, where=where, hint=hint)
        self.status = status


class SiteClient:
    """Makes requests with the credentials of one server. One thread at a time."""

    def __init__(
        self,
        url: str,
        credentials: Credentials | None,
        *,
        target: str,
        timeout: tuple[float, float] | None = None,
        retries: Retries = RETRIES,
    ) -> None:
        """Make no request yet.

        Args:
            url: of the server; what lies at the same host and port gets the credentials.
            credentials: of the publisher.
            target: the publish target's name, for hints.
            timeout: seconds to connect, and between two reads or writes; `http.TIMEOUT` if it is None.
            retries: how often a request is made.

        Raises:
            ConfigError: the URL is not one of http or https, or has a user or password in it.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DestinationError(f"{redacted(url)} is not an http or https URL", where=f"publish target {target}")
        if "@" in parts.netloc:
            raise DestinationError(
                f"there are credentials in {redacted(url)}",
                where=f"publish target {target}",
                hint=f"take them out; {advice(target, url)}",
            )
        self._login = Login(url=url, header=authorization(credentials))
        self._target = target
        self._timeout = timeout
        self._retries = retries

    @cached_property
    def _client(self) -> Client:
        from pikaforge.host.http_session import Client  # noqa: PLC0415  # imports requests

        # A pointer that a cache gives is not what the server has.
        headers = {"Cache-Control": "no-cache"}
        return Client(retries=self._retries, login=self._login, timeout=self._timeout, headers=headers)

    def get(self, url: str, *, limit: int = LIMIT) -> bytes | None:
        """Return a body of at most `limit` bytes; None if there is none (404)."""
        return self.ask("GET", url, lambda answer: answer.body(limit), also=(404,))

    def look(self, url: str) -> Mapping[str, str] | None:
        """Return the headers of a file; None if there is none (404)."""
        return self.ask("HEAD", url, lambda answer: answer.headers, also=(404,))

    def ask(
        self,
        method: str,
        url: str,
        read: Callable[[Answer], T],
        *,
        body: Content | None = None,
        headers: Mapping[str, str] | None = None,
        also: Collection[int] = (),
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

        def judged(answer: Answer) -> T | None:
            if answer.status in also:
                return None
            if not 200 <= answer.status < 300:
                raise self._refusal(answer.status, answer.headers, method, url)
            return read(answer)

        try:
            return self._client.ask(method, url, judged, body=body, headers=headers, final=also)
        except TooLargeError as error:
            raise PublishError(f"the file {error}", where=redacted(url)) from None
        except HttpError as error:
            if error.kind == "file":
                raise PublishError(f"cannot read what is to be published: {error}", where=str(body)) from None
            raise self._failure(error, method, url) from None

    def _failure(self, error: HttpError, method: str, url: str) -> PublishError:
        if error.kind in HINTS:
            message = f"{method} cannot reach the server: {error}"
            return PublishError(message, where=redacted(url), hint=HINTS[error.kind])
        cut = "the answer was cut off: " if error.kind == "cut" else ""
        return PublishError(
            f"{method} failed{self._times}: {cut}{error}",
            where=redacted(url),
            hint="is the server, or the way to it, down?",
        )

    def _refusal(self, status: int, headers: Mapping[str, str], method: str, url: str) -> RefusedError:
        times = self._times if status in TRANSIENT else ""
        return RefusedError(
            f"{method} was answered {phrase(status)}{times}",
            where=redacted(url),
            hint=self._hint(status, headers),
            status=status,
        )

    @property
    def _times(self) -> str:
        return f", {self._retries.tries} times" if self._retries.tries > 1 else ""

    def _hint(self, status: int, headers: Mapping[str, str]) -> str:
        if status in (401, 403):
            return f"are the credentials right, and may they write there? {advice(self._target, self._login.url)}"
        if status in (404, 405, 501):
            return "does the server take PUT and DELETE there? Is the target's URL right?"
        if status == 409:
            return "the server does not make folders (MKCOL): make the one that is missing there"
        if status in (413, 507):
            return "the file is too large for the server (nginx: client_max_body_size), or its disk is full"
        if 300 <= status < 400:
            return f"give the URL that it names: {redacted(headers.get('Location', '(none)'))}"
        return "its log says why; is its disk full?" if status >= 500 else "its log says why"


def authorization(credentials: Credentials | None) -> str:
    """Return the value of the header `Authorization`; "" without credentials."""
    if credentials is None:
        return ""
    if credentials.token:
        return f"Bearer {credentials.token}"
    pair = f"{credentials.user}:{credentials.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


def loopback(url: str) -> bool:
    """Return whether a URL is of this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def warn_if_plain(url: str, credentials: Credentials | None, notice: Callable[[str], None]) -> None:
    """Give notice where credentials go over a network unencrypted."""
    if credentials is not None and url.startswith("http:") and not loopback(url):
        notice(f"{redacted(url)} is plain http: whoever is on the way can read the credentials")
