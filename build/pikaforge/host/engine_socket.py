"""Questions to an engine of this machine, through its socket and without the SDK.

A look at the engine is one GET. The SDK takes a third of a second for it, of which nearly all is its import. So this
speaks HTTP/1.0, in which an answer ends with its connection. All that changes something goes through `connection`, and
so do engines on other machines.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
from collections.abc import Sequence

UNIX = "unix://"
LIMIT = 64 << 20
"""Bytes of an answer at most."""
BLOCK = 1 << 16
SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-~/:")
"""Letters that stay in the part of a path that names an image."""
SECONDS = 60.0
"""For the whole of an answer's next part; a busy engine may take long to say something."""


class EngineSilentError(OSError):
    """The engine behind a socket cannot be asked, or says what is no answer."""


def usable(path: str) -> bool:
    """Return whether a path is a socket that this user may speak to."""
    try:
        found = os.stat(path)  # noqa: PTH116  # pathlib costs 10 ms
    except (OSError, ValueError):
        return False
    return stat.S_ISSOCK(found.st_mode) and os.access(path, os.R_OK | os.W_OK)


def get(address: str, path: str, *, seconds: float = SECONDS) -> tuple[int, object]:
    """Ask an engine; return the status of its answer, and the JSON in it (None if there is none).

    Args:
        address: as DOCKER_HOST has it, of a socket: `unix:///run/docker.sock`.
        path: of what is asked for, with its query, quoted as in a URL.
        seconds: for a connection, and for each part of the answer.

    Raises:
        EngineSilentError: there is no engine, it does not answer in time, or its answer is too long or no HTTP.
    """
    request = f"GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: application/json\r\n\r\n".encode("ascii")
    data = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            connection.connect(address.removeprefix(UNIX))
            connection.sendall(request)
            while block := connection.recv(BLOCK):
                data += block
                if len(data) > LIMIT:
                    raise EngineSilentError(f"the answer to GET {path} has more than {LIMIT} bytes")
    except TimeoutError as error:
        raise EngineSilentError(f"no answer to GET {path} in {seconds:g} s") from error
    except EngineSilentError:
        raise
    except OSError as error:
        raise EngineSilentError(error.strerror or str(error)) from error
    return _parsed(bytes(data), path)


def _parsed(data: bytes, path: str) -> tuple[int, object]:
    head, end, body = data.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split()
    if not end or len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise EngineSilentError(f"the answer to GET {path} is no HTTP")
    fields = dict(line.lower().partition(b":")[::2] for line in head.split(b"\r\n")[1:])
    length = fields.get(b"content-length", b"").strip()
    if b"transfer-encoding" in fields or (length and int(length) != len(body)):
        raise EngineSilentError(f"the answer to GET {path} is incomplete")
    try:
        return int(words[1]), json.loads(body) if body.strip() else None
    except (ValueError, RecursionError) as error:
        raise EngineSilentError(f"the answer to GET {path} is no JSON") from error


def chosen(answer: object, names: Sequence[str]) -> str:
    """Return a digest of some fields of an answer, by which two answers are compared."""
    fields = {name: answer.get(name) for name in names} if isinstance(answer, dict) else None
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def image_path(reference: str) -> str:
    """Return the path of an image's facts; a reference has letters that need no quotes in a path, but for `@`."""
    return f"/images/{''.join(c if c in SAFE else f'%{ord(c):02X}' for c in reference)}/json"


def owned(label: str) -> tuple[str, str]:
    """Return the paths of the lists of containers and of networks that have a label."""
    query = f"?filters=%7B%22label%22%3A%5B%22{label}%22%5D%7D"
    return f"/containers/json{query}&all=1", f"/networks{query}"
