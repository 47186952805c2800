"""HTTP requests with retries: this module and `http_sockets` are the ones that import requests and urllib3.

Bodies are streams, and are read only as far as the caller needs. No exception that leaves this module has a URL, a
header or an object of requests in it. As in requests, proxies and certificate authorities are taken from the
environment (http_proxy, https_proxy, no_proxy, REQUESTS_CA_BUNDLE).
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import ssl
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, TypeVar
from urllib.parse import urljoin

import requests
import urllib3
from urllib3 import Retry
from urllib3.exceptions import InvalidHeader, MaxRetryError, NameResolutionError, ProtocolError, SSLError

from pikaforge.host import http, offline
from pikaforge.host.http import BLOCK, TRANSIENT, Content, CutError, HttpError, Login, Retries, TooLargeError
from pikaforge.host.http_sockets import WatchedAdapter, ended_after
from pikaforge.host.streams import InterruptibleFile

if TYPE_CHECKING:
    from urllib3.connectionpool import ConnectionPool
    from urllib3.response import BaseHTTPResponse

LOST = (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, HTTPException)
"""Exceptions of these libraries. The docker SDK lets them through when an engine dies."""
SHORT = 1 << 16
"""Bytes of a body that is not needed but is read, so that the connection can be used again."""
FOLLOWED = ("GET", "HEAD")
"""Methods whose redirects are followed. A redirected PUT would write to a place that the user has not named."""

T = TypeVar("T")

# Its log lines have whole URLs with queries, which may be secrets.
logging.getLogger("urllib3").propagate = False


def timed_out(error: BaseException) -> bool:
    """Return whether an error is a read timeout. The docker SDK raises one as a lost connection."""
    inner = error.args[0] if error.args else None
    return isinstance(error, requests.exceptions.ReadTimeout) or isinstance(inner, urllib3.exceptions.ReadTimeoutError)


class _Retry(Retry):
    """urllib3's counts and backoff, with limits that a server cannot raise."""

    policy = Retries()

    def new(self, **changes: object) -> _Retry:
        """Return a copy with other counts."""
        made = super().new(**changes)
        made.policy = self.policy
        return made

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> _Retry:
        """Count a try that failed.

        Raises:
            MaxRetryError: it was the last one, or another one cannot help.
        """
        hopeless = isinstance(error, SSLError | NameResolutionError)
        before = self.new(total=0) if hopeless else self
        after = super(_Retry, before).increment(method, url, response, error, _pool, _stacktrace)
        if response is not None:
            response.close()  # urllib3 would read the body of a refusal to its end, which may never come
        return after

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        """Wait before the next try, as long as the server asks for or the policy says."""
        seconds = self.get_backoff_time()
        if response is not None:
            # The header may be no time, or a number that is too large for one.
            with contextlib.suppress(InvalidHeader, ValueError, OverflowError):
                seconds = max(seconds, min(self.get_retry_after(response) or 0.0, self.policy.longest))
        if seconds > 0:
            self.policy.wait(seconds)


def _retry(policy: Retries, final: Collection[int]) -> _Retry:
    without_answer = None if policy.connections else 0
    made = _Retry(
        total=policy.tries - 1,
        connect=without_answer,
        read=without_answer,
        other=without_answer,
        allowed_methods=None,  # all: a second PUT, DELETE, MKCOL or MOVE does no harm
        status_forcelist=TRANSIENT - frozenset(final),
        backoff_factor=policy.pause,
        raise_on_status=False,  # the caller judges the last answer
    )
    made.policy = policy
    return made


class _Authorization(requests.auth.AuthBase):
    """Adds the header of a login to requests of its server."""

    def __init__(self, login: Login) -> None:
        self._login = login

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.pop("Authorization", None)
        if self._login.header and self._login.fits(request.url or ""):
            request.headers["Authorization"] = self._login.header
        return request


class LoginSession(requests.Session):
    """A session that sends a login to its server alone."""

    def __init__(self, login: Login) -> None:
        super().__init__()
        self.auth = self._authorize = _Authorization(login)

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Add the login after a redirect, or remove it; requests would look into ~/.netrc."""
        self._authorize(prepared_request)


class Answer:
    """An answer whose body has not been read. As a context manager it closes the connection if the body is not read."""

    def __init__(self, response: requests.Response) -> None:
        self._response = response
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_error: object) -> None:
        self._response.close()

    @property
    def length(self) -> int | None:
        """Bytes of the body; None if the server does not say it (RFC 9112, section 6.3)."""
        text = self.headers.get("Content-Length", "")
        known = re.fullmatch(r"[0-9]{1,18}", text) and "Transfer-Encoding" not in self.headers
        return int(text) if known else None

    @property
    def encoded(self) -> bool:
        """Whether the server says that the body is compressed, although it was asked not to."""
        return self.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity")

    def blocks(self, size: int = BLOCK, *, expected: int | None = None) -> Iterator[bytes]:
        """Yield the body as it is stored. Some servers declare `.gz` as an encoding; it is not decoded.

        Args:
            size: bytes of a block.
            expected: bytes of the body; what the server says if it is None.

        Raises:
            CutError: it ended early, or stalled.
        """
        expected, received = self.length if expected is None else expected, 0
        self._response.raw.chunked = False  # the standard library reads chunks, too, and bounds lines between them
        try:
            for block in self._response.raw.stream(size, decode_content=False):
                received += len(block)
                yield block
        except LOST as error:
            raise CutError(_brief(error), received=received) from None
        if expected is not None and received < expected:  # not every version of urllib3 counts
            raise CutError(f"{received} of {expected} bytes came", received=received)

    def body(self, limit: int) -> bytes:
        """Return the body.

        Raises:
            CutError: it ended early, or stalled.
            TooLargeError: it has more than `limit` bytes.
        """
        body = bytearray()
        for block in self.blocks():
            body += block
            if len(body) > limit:
                raise TooLargeError(limit)
        return bytes(body)

    def tries_left(self, cut: CutError, method: str, url: str) -> _Retry:
        """Return the tries that are left after this one; raise the error if there are none."""
        spent = self._response.raw.retries
        assert isinstance(spent, _Retry)  # `_send` has given it one
        try:
            return spent.increment(method, url, error=ProtocolError(str(cut)))
        except MaxRetryError:
            raise cut from None

    def drain(self) -> None:
        """Read a short body, so that the connection can be used again."""
        with contextlib.suppress(TooLargeError):
            self.body(SHORT)


class Client:
    """Makes requests over connections that are kept. One thread at a time."""

    def __init__(
        self,
        *,
        retries: Retries,
        login: Login | None = None,
        timeout: tuple[float, float] | None = None,
        headers: Mapping[str, str] | None = None,
        downgrade: bool = False,
    ) -> None:
        """Make no request yet.

        Args:
            retries: how often a request is made.
            login: of the requests; without one, credentials in URLs and in ~/.netrc are used.
            timeout: seconds to connect, and between two reads or writes; `http.TIMEOUT` if it is None.
            headers: of every request.
            downgrade: whether a redirect may lead from https to http. The caller then verifies what it gets.
        """
        self._policy = retries
        self._timeout = timeout or http.TIMEOUT
        self._downgrade = downgrade
        self._adapter = WatchedAdapter()
        self.session = requests.Session() if login is None else LoginSession(login)
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, self._adapter)
        # Files are wanted as they are stored: no server and no proxy may compress them.
        self.session.headers.update({"Accept-Encoding": "identity", "User-Agent": "pikaforge", **(headers or {})})
        self.session.hooks["response"].append(self._check_redirect)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_error: object) -> None:
        self.session.close()

    def _check_redirect(self, response: requests.Response, *_args: object, **_options: object) -> None:
        if not response.is_redirect or response.request.method not in FOLLOWED:
            return
        response.raw.close()  # requests reads the body of a redirect to its end, which may never come
        target = urljoin(response.url, response.headers["Location"])
        if response.url.startswith("https:") and not target.startswith("https:") and not self._downgrade:
            raise HttpError(f"it redirects to {http.redacted(target)}, which is not encrypted", "redirect")

    def within(self, seconds: float) -> AbstractContextManager[None]:
        """End requests of a block after so many seconds. See `http_sockets.ended_after`."""
        return ended_after(self._adapter, seconds)

    def open(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, final: Collection[int] = ()
    ) -> Answer:
        """Make a request, with retries. Redirects are followed for GET and HEAD.

        Args:
            method: of HTTP.
            url: http or https.
            headers: further ones.
            final: statuses of `TRANSIENT` that are an answer here.

        Returns:
            The answer, whatever its status is. The caller uses it in a `with`.

        Raises:
            HttpError: there is no answer.
        """
        return self._send(method, url, None, headers, _retry(self._policy, final))

    def ask(
        self,
        method: str,
        url: str,
        read: Callable[[Answer], T],
        *,
        body: Content | None = None,
        headers: Mapping[str, str] | None = None,
        final: Collection[int] = (),
    ) -> T:
        """Make a request as `open` does, and read the answer. If its body is cut or stalls, make the request again.

        Args:
            method: of HTTP.
            url: http or https.
            read: makes the result out of an answer.
            body: what is sent.
            headers: further ones.
            final: statuses of `TRANSIENT` that are an answer here.

        Raises:
            HttpError: there is no answer, or not all of one, or the file that is the body cannot be opened.
        """
        retry = _retry(self._policy, final)
        while True:
            with self._send(method, url, body, headers, retry) as answer:
                try:
                    return read(answer)
                except CutError as cut:
                    retry = answer.tries_left(cut, method, url)
            retry.sleep()

    def _send(
        self, method: str, url: str, body: Content | None, headers: Mapping[str, str] | None, retry: _Retry
    ) -> Answer:
        offline.refuse(http.redacted(url))
        with _opened(body) as data:
            self._adapter.max_retries = retry
            try:
                return Answer(
                    self.session.request(
                        method,
                        url,
                        data=data,
                        headers=dict(headers or {}),
                        timeout=self._timeout,
                        stream=True,
                        allow_redirects=method in FOLLOWED,
                    )
                )
            # ValueError: urllib3's own of a URL. OSError: all of requests, and a bundle of authorities that is absent.
            except (OSError, ValueError, *LOST) as error:
                raise _explained(error) from None


@contextlib.contextmanager
def _opened(body: Content | None) -> Iterator[IO[bytes] | bytes | None]:
    """Open the body of a request. urllib3 rewinds a file before it sends it again."""
    if not isinstance(body, Path):
        yield body
        return
    try:
        stream = InterruptibleFile(io.FileIO(body))
    except OSError as error:
        raise HttpError(error.strerror or str(error), "file") from error
    with stream:
        # As a stream, an empty file would be sent in chunks, which not every server takes.
        yield stream if os.fstat(stream.fileno()).st_size else b""


def _explained(error: Exception) -> HttpError:
    """Say what an exception of requests or urllib3 means."""
    if isinstance(error, requests.exceptions.SSLError):
        return HttpError(_tls_reason(error), "tls")
    if isinstance(error, requests.exceptions.ProxyError):
        return HttpError(f"the proxy does not answer: {_brief(error)}", "connection")
    if any(isinstance(inner, NameResolutionError) for inner in _chain(error)):
        return HttpError(_brief(error), "name")
    if isinstance(error, requests.exceptions.ConnectionError | requests.exceptions.Timeout):
        return HttpError(_brief(error), "connection")
    bundle = isinstance(error, OSError) and not isinstance(error, requests.exceptions.RequestException)
    return HttpError(_brief(error), "tls" if bundle else "url")


def _chain(error: object) -> Iterator[object]:
    """Yield an exception and what it wraps, outermost first."""
    for _ in range(10):
        yield error
        inner = getattr(error, "reason", None)
        if not isinstance(inner, Exception):
            inner = next(iter(getattr(error, "args", ())), None)
        if not isinstance(inner, Exception):
            return
        error = inner


def _tls_reason(error: Exception) -> str:
    """Say why there is no encrypted connection."""
    for inner in _chain(error):
        if isinstance(inner, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {inner.verify_message}"
        if isinstance(inner, ssl.SSLError) and inner.reason:
            return http.TLS_REASONS.get(inner.reason, f"TLS fails: {inner.reason.lower().replace('_', ' ')}")
    return f"TLS fails: {_brief(error)}"


def _brief(error: Exception) -> str:
    """Return the reason in an exception, in one line of at most 200 characters, without secrets."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    text = " ".join(str(reason or error).split())
    text = re.sub(r"://[^\s/]*@", "://***@", text)
    return re.sub(r"\?[^\s'\"<>)]+", "?***", text)[-200:]
