"""RESP connections to servers under test, by redis-py's connection and parser. Replies are returned as they came."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Protocol, Union

Reply = Union[str, int, None, list["Reply"], "ErrorReply"]


class ErrorReply:
    """A reply that is an error; `text` is the server's line without the leading dash."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"(error) {self.text}"


class Closed(Exception):
    """The connection could not be made, was closed, or a reply did not come in time."""


class _Wire(Protocol):
    """What is used of redis-py's connection."""

    def connect(self) -> None: ...

    def disconnect(self) -> None: ...

    def pack_commands(self, commands: Sequence[Sequence[str | int]]) -> list[bytes]: ...

    def send_packed_command(self, command: list[bytes], *, check_health: bool) -> None: ...

    def read_response(self) -> object: ...


class Connection:
    """A connection. It uses RESP2, which every server of this kind knows, and sends nothing by itself."""

    def __init__(self, host: str, port: int, *, timeout: float = 10.0) -> None:
        """Connect.

        Args:
            host: name or address.
            port: TCP port.
            timeout: seconds for connecting and for each reply.

        Raises:
            Closed: nothing listens there.
        """
        from redis import exceptions  # noqa: PLC0415  # 0.2 s that a plan must not cost
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.connection import AbstractConnection  # noqa: PLC0415
        from redis.connection import Connection as Wire  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415

        self._errors = exceptions
        self._failures: tuple[type[Exception], ...] = (exceptions.ConnectionError, exceptions.TimeoutError, OSError)
        make: Callable[..., _Wire] = Wire
        # Servers of this kind answer CLIENT SETINFO with an error. Since 7.2 the client's name is one argument.
        new = "driver_info" in inspect.signature(AbstractConnection.__init__).parameters
        quiet = {"driver_info": None} if new else {"lib_name": None, "lib_version": None}
        self._wire = make(
            host=host,
            port=port,
            protocol=2,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            **quiet,
        )
        try:
            self._wire.connect()
        except self._failures as error:
            raise Closed(_brief(error)) from error

    def exchange(self, requests: Sequence[Sequence[str | int]]) -> list[Reply]:
        """Send requests in one packet and read their replies.

        Raises:
            Closed: the server went away, or did not answer in time.
        """
        try:
            self._wire.send_packed_command(self._wire.pack_commands(requests), check_health=False)
            return [self._read() for _ in requests]
        except self._failures as error:
            raise Closed(_brief(error)) from error

    def _read(self) -> Reply:
        try:
            return self._plain(self._wire.read_response())
        except self._errors.ResponseError as error:
            return self._plain(error)

    def _plain(self, value: object) -> Reply:
        if isinstance(value, bytes):
            return value.decode("utf-8", "backslashreplace")
        if isinstance(value, list):
            return [self._plain(item) for item in value]
        if isinstance(value, Exception):
            # redis-py cuts the code words that it knows (ERR) off; the rest is as sent.
            return ErrorReply(str(value))
        if value is None or isinstance(value, int):
            return value
        return str(value)

    def close(self) -> None:
        """Close the connection."""
        self._wire.disconnect()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
