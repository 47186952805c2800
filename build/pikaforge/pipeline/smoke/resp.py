"""RESP connections to servers under test. Replies are returned as they came.

The protocol: https://redis.io/docs/latest/develop/reference/protocol-spec/. RESP2 is used, which every server of this
kind knows; nothing is sent that a check does not ask for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Union

from pikaforge.pipeline.smoke.wire import Closed, Garbled, NoConnection, Wire

__all__ = ["Closed", "Connection", "ErrorReply", "Garbled", "NoConnection", "Reply"]

Reply = Union[str, int, None, list["Reply"], "ErrorReply"]
DEPTH = 32
"""Lists within lists."""
ENTRIES = 1 << 20
"""Members of one reply, with those of lists in it. As objects of Python they take more memory than on the wire."""
KINDS = (b"+", b"-", b":", b"$", b"*")
NUMBER = re.compile(rb"[+-]?[0-9]{1,20}")


class ErrorReply:
    """A reply that is an error; `text` is the server's line without the leading dash, and without the word ERR."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"(error) {self.text}"


class Connection:
    """A connection."""

    def __init__(self, host: str, port: int, *, timeout: float = 10.0) -> None:
        """Connect.

        Args:
            host: name or address.
            port: TCP port.
            timeout: seconds for connecting and for each reply.

        Raises:
            NoConnection: nothing listens there.
        """
        self._wire = Wire(host, port, timeout=timeout)
        self._entries = 0

    def exchange(self, requests: Sequence[Sequence[str | int]]) -> list[Reply]:
        """Send requests in one packet and read their replies.

        Raises:
            Closed: the server went away, did not answer in time, or sent what is no reply.
        """
        self._wire.send(b"".join(map(packed, requests)))
        return [self._next() for _ in requests]

    def _next(self) -> Reply:
        self._wire.begin()
        self._entries = 0
        return self._read(DEPTH)

    def _read(self, depth: int) -> Reply:
        if self._wire.first() not in KINDS:
            raise Garbled(f"what came is no RESP: {_shown(self._wire.held)}")
        line = self._wire.line()
        kind, rest = line[:1], line[1:]
        self._entries += 1
        if self._entries > ENTRIES:
            raise Closed(f"the reply has more than {ENTRIES} members")
        if kind == b"+":
            return _text(rest)
        if kind == b"-":
            return ErrorReply(_text(rest).removeprefix("ERR "))
        if not NUMBER.fullmatch(rest):
            raise Garbled(f"what came is no RESP: {_shown(line)}")
        number = int(rest)
        if kind == b":":
            return number
        if number < 0:
            return None
        if kind == b"$":
            data = self._wire.read(number + 2)
            if not data.endswith(b"\r\n"):
                raise Garbled(f"what came is no RESP: a string of {number} bytes does not end there")
            return _text(data[:-2])
        if not depth:
            raise Garbled(f"what came is no RESP: more than {DEPTH} lists are within each other")
        return [self._read(depth - 1) for _ in range(number)]

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def packed(request: Sequence[str | int]) -> bytes:
    """Return a request on the wire: a list of strings."""
    words = [str(word).encode("utf-8", "surrogateescape") for word in request]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _shown(line: bytes) -> str:
    return repr(line[:60].decode("latin-1"))
