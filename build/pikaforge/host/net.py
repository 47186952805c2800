"""Small downloads over HTTP, and what may be shown of a URL."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pikaforge.errors import HostError, UnreachableError

TIMEOUT = (10.0, 60.0)
"""Seconds to connect, and between two reads."""


def redacted(url: str) -> str:
    """A URL as it may be shown: without its user, password, query values and fragment, which may be secrets."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # nobody knows which part of it is the password, if there is any
        return f"{url.partition(':')[0]}:***" if {*"@?#"} & {*url} else url
    if not parts.netloc and parts.scheme != "file" and "@" in url:  # user:password@host, the scheme forgotten
        return f"***@{url.rpartition('@')[2].partition('?')[0]}"
    _, at, host = parts.netloc.rpartition("@")
    return parts._replace(
        netloc=f"***@{host}" if at else host, query="***" if parts.query else "", fragment=""
    ).geturl()


def brief(error: Exception) -> str:
    """The reason in an exception of requests, in one line of at most 200 characters, without secrets."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    text = " ".join(str(reason or error).split())
    text = re.sub(r"://[^\s/]*@", "://***@", text)
    return re.sub(r"\?[^\s'\"<>)]+", "?***", text)[-200:]


def get(url: str, *, limit: int) -> bytes:
    """The body behind a URL (http, https or file).

    Raises:
        UnreachableError: there is no way to the server.
        HostError: the server refuses, or the body has more than `limit` bytes.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        try:
            with Path(url2pathname(parts.path)).open("rb") as file:
                data = file.read(limit + 1)
        except OSError as error:
            raise HostError(f"cannot read {redacted(url)}: {error.strerror}") from error
        if len(data) > limit:
            raise _too_large(url, limit)
        return data
    import requests  # noqa: PLC0415  # 0.1 s that nothing else needs

    try:
        with requests.get(url, timeout=TIMEOUT, stream=True) as answer:
            if answer.status_code != requests.codes.ok:
                raise HostError(
                    f"{redacted(url)} answers {answer.status_code} {answer.reason}",
                    hint="open it in a browser: does it exist?",
                )
            body = bytearray()
            for block in answer.iter_content(1 << 16):
                body += block
                if len(body) > limit:
                    raise _too_large(url, limit)
            return bytes(body)
    except requests.exceptions.RequestException as error:
        server = redacted(f"{parts.scheme}://{parts.netloc}")
        raise UnreachableError(f"cannot reach {server}: {brief(error)}") from None  # its own text has the whole URL


def _too_large(url: str, limit: int) -> HostError:
    return HostError(f"{redacted(url)} is larger than {limit >> 20} MiB")
