"""TCP connections to servers under test, with bounds for the time and the memory that an answer may take."""

from __future__ import annotations

import re
import socket
import time

from pikaforge.host.text import clean, size_text

LIMIT = 16 << 20
"""Bytes of one answer."""
BLOCK = 1 << 16
"""Bytes that are read at once."""


class Closed(Exception):
    """The connection was closed, or an answer did not come in time, is too long, or is none."""


class NoConnection(Closed):
    """The connection could not be made."""


class Ended(Closed):
    """The server closed the connection."""


class Garbled(Closed):
    """What came is not of the protocol."""


class Wire:
    """A connection. An answer has bounds as a whole: a server that sends a byte now and then is not waited for."""

    def __init__(self, host: str, port: int, *, timeout: float = 10.0, limit: int = LIMIT) -> None:
        """Connect.

        Args:
            host: name or address.
            port: TCP port.
            timeout: seconds for connecting, for sending, and for each answer.
            limit: bytes of each answer.

        Raises:
            NoConnection: nothing listens there.
        """
        self._timeout, self._limit = timeout, limit
        self._held = bytearray()
        try:
            self._socket = socket.create_connection((host, port), timeout=timeout)
        except OSError as error:
            raise NoConnection(f"{host}:{port}: {brief(error)}") from error
        self.begin()

    def begin(self) -> None:
        """Begin to wait for an answer."""
        self._deadline = time.monotonic() + self._timeout
        self._left = self._limit

    def send(self, data: bytes) -> None:
        """Send bytes; raise Closed if the server does not take them all in time."""
        self._socket.settimeout(self._timeout)
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise Closed(brief(error)) from error
        self.begin()

    def read(self, size: int) -> bytes:
        """Return the next bytes, as many as are wanted.

        Raises:
            Closed: they did not come in time, or are more than an answer may have.
        """
        if size > self._left + len(self._held):
            raise Closed(self._too_long())
        while len(self._held) < size:
            self._more()
        return self._take(size)

    @property
    def held(self) -> bytes:
        """What came and was not read yet."""
        return bytes(self._held)

    def first(self) -> bytes:
        """Return the next byte, which stays there; raise Closed as `read` does."""
        if not self._held:
            self._more()
        return bytes(self._held[:1])

    def read_as(self, wanted: bytes) -> bytes:
        """Return the next bytes as far as they are the wanted ones; if they are not, all that came up to now.

        Raises:
            Closed: they did not come in time, or are more than an answer may have.
        """
        while len(self._held) < len(wanted) and wanted.startswith(self.held):
            self._more()
        return self._take(len(wanted) if self._held.startswith(wanted) else len(self._held))

    def line(self) -> bytes:
        """Return the next bytes up to a line's end, without it; raise Closed as `read` does."""
        start = 0
        while (end := self._held.find(b"\r\n", start)) < 0:
            start = max(0, len(self._held) - 1)
            self._more()
        return self._take(end + 2)[:-2]

    def until(self, pattern: re.Pattern[str]) -> str | None:
        """Read until what came holds a match, and take it up to the match's end.

        Returns:
            None if it holds one; else all that came until the time was over, or the connection was closed.
        """
        while (found := pattern.search(self._held.decode("latin-1"))) is None:
            try:
                self._more()
            except Closed:
                return self._take(len(self._held)).decode("latin-1")
        self._take(found.end())
        return None

    def is_open(self, within: float) -> bool:
        """Return whether the server keeps the connection open for some seconds, or sends something."""
        self._deadline = time.monotonic() + within
        try:
            self._more()
        except Closed as error:
            return isinstance(error.__cause__, TimeoutError)
        return True

    def _more(self) -> None:
        left = self._deadline - time.monotonic()
        if self._left <= 0:
            raise Closed(self._too_long())
        try:
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            data = self._socket.recv(min(BLOCK, self._left))
        except TimeoutError as error:
            raise Closed(f"the answer did not come within {self._timeout:g} s") from error
        except OSError as error:
            raise Closed(brief(error)) from error
        if not data:
            raise Ended("the server closed the connection")
        self._left -= len(data)
        self._held += data

    def some(self, size: int) -> bytes:
        """Return the next bytes, as many as are there, at most `size`; none at the connection's end.

        Raises:
            Closed: none came in time, or are more than an answer may have.
        """
        try:
            if not self._held:
                self._more()
        except Ended:
            return b""
        return self._take(min(size, len(self._held)))

    def _take(self, size: int) -> bytes:
        data = bytes(self._held[:size])
        del self._held[:size]
        return data

    def _too_long(self) -> str:
        return f"the answer is longer than {size_text(self._limit)}"

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def brief(error: BaseException) -> str:
    """Return an exception's text on one line. It may be of what a server sent."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(clean(str(text)).split())[:200]
