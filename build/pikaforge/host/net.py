"""Small downloads over HTTP."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pikaforge.errors import HostError

TIMEOUT = (10.0, 60.0)
"""Seconds to connect, and between two reads."""


class Unreachable(HostError):
    """A server that did not answer, or whose name is not known."""


def get(url: str, *, limit: int) -> bytes:
    """The body behind a URL (http, https or file).

    Raises:
        Unreachable: there is no way to the server.
        HostError: the server refuses, or the body has more than `limit` bytes.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        try:
            with Path(url2pathname(parts.path)).open("rb") as file:
                data = file.read(limit + 1)
        except OSError as error:
            raise HostError(f"cannot read {url}: {error.strerror}") from error
        if len(data) > limit:
            raise _too_large(url, limit)
        return data
    import requests  # noqa: PLC0415  # 0.1 s that nothing else needs

    try:
        with requests.get(url, timeout=TIMEOUT, stream=True) as answer:
            if answer.status_code != requests.codes.ok:
                raise HostError(
                    f"{url} answers {answer.status_code} {answer.reason}", hint="open it in a browser: does it exist?"
                )
            body = bytearray()
            for block in answer.iter_content(1 << 16):
                body += block
                if len(body) > limit:
                    raise _too_large(url, limit)
            return bytes(body)
    except requests.exceptions.RequestException as error:
        raise Unreachable(f"cannot reach {parts.scheme}://{parts.netloc}: {_brief(error)}") from error


def _too_large(url: str, limit: int) -> HostError:
    return HostError(f"{url} is larger than {limit >> 20} MiB")


def _brief(error: Exception) -> str:
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return " ".join(str(reason or error).split())[-200:]
