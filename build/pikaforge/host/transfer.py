"""Bodies of HTTP answers and of local files as streams of blocks."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pikaforge.host.net import brief

if TYPE_CHECKING:
    from requests import Response

TIMEOUT = (10.0, 30.0)
"""Seconds to connect, and between two reads: a stall costs little, because what has come is kept."""


BLOCK = 1 << 14
"""Bytes that a cut connection may cost."""


STRONG = re.compile(r'"[\x21\x23-\x7e]*"')
"""An ETag that promises the same bytes (RFC 9110, section 8.8.1); weak ones begin with W/ and cannot be resumed by."""


DATE = re.compile(r"[A-Za-z0-9:, +-]+")


RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


LENGTH = re.compile(r"\d{1,18}")


class _FailedError(Exception):
    """A source does not serve; the text goes on after the source's name."""


class _CutError(Exception):
    """A body ended early, or stalled."""

    def __init__(self, reason: str, *, received: int) -> None:
        super().__init__(reason)
        self.received = received
        """Bytes of this body that did come."""


def _scheme(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) if parts.scheme in {"http", "https"} else parts.netloc in {"", "localhost"}
        _ = parts.port  # looks at it only now
    except ValueError:
        good = False
    if not good or parts.scheme not in {"http", "https", "file"}:
        raise _FailedError("is not a URL with http://, https:// or file:///")
    return parts.scheme


@contextmanager
def _asked(url: str, headers: Mapping[str, str]) -> Iterator[Response]:
    """An answer of 200, 206 or 416 whose body has not been read."""
    import requests  # noqa: PLC0415  # 0.1 s that nothing else needs

    try:
        # The digest is of the file as it is stored, so no server or proxy may compress it on the way.
        answer = requests.get(url, headers={"Accept-Encoding": "identity", **headers}, timeout=TIMEOUT, stream=True)
    except (OSError, ValueError) as error:  # more than RequestException: an absent CA bundle is a plain OSError
        raise _FailedError(f"cannot be reached: {brief(error)}") from error
    with answer:
        if answer.status_code not in {http.client.OK, http.client.PARTIAL_CONTENT, 416}:
            raise _FailedError(_status(answer))
        encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in {"", "identity"}:
            raise _FailedError("comes with a Content-Encoding, though none was asked for")
        yield answer


def _status(answer: Response) -> str:
    """The standard's words for a status; a server's own may hold anything."""
    return f"answers {answer.status_code} {http.client.responses.get(answer.status_code, '')}".rstrip()


def _validator(answer: Response) -> str:
    """What a later request can ask by whether the file is still the same; "" if nothing can."""
    etag, date = answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", "")
    if STRONG.fullmatch(etag):
        return etag
    return date if DATE.fullmatch(date) else ""


def _rest(answer: Response, offset: int, validator: str) -> int | None:
    """Bytes that are still to come, if the answer goes on where we are and with the same file; else None."""
    found = RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status_code != http.client.PARTIAL_CONTENT or found is None or int(found[1]) != offset:
        return None
    etag = answer.headers.get("ETag", validator)
    if STRONG.fullmatch(validator) and etag != validator:  # it does not know If-Range
        return None
    return (int(found[2]) + 1 if found[3] == "*" else int(found[3])) - offset


def _of_body(answer: Response, expected: int | None) -> Iterator[bytes]:
    """The blocks of a body that has `expected` bytes (None: not known)."""
    import requests  # noqa: PLC0415

    received = 0
    try:
        for block in answer.iter_content(BLOCK):
            received += len(block)
            yield block
    except requests.exceptions.RequestException as error:
        raise _CutError(f"was cut off: {brief(error)}", received=received) from error
    if expected is not None and received < expected:  # not every version of requests counts
        raise _CutError(f"was cut off: {received} of {expected} bytes came", received=received)


def _local(url: str) -> Path:
    """The path of a file:// URL."""
    path = Path(url2pathname(urlsplit(url).path))
    try:
        if path.is_file():  # a pipe would never end
            return path
        raise _FailedError("is not a file" if path.exists() else "does not exist")
    except (OSError, ValueError) as error:
        raise _FailedError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _of_file(path: Path) -> Iterator[bytes]:
    """The blocks of a file that is a source."""
    try:
        with path.open("rb") as stream:
            while block := stream.read(BLOCK):
                yield block
    except OSError as error:
        raise _FailedError(f"cannot be read: {error.strerror}") from error
