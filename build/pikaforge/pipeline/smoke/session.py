"""What the steps of one check have with one server, or with a place for commands: connections, and running commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

from pikaforge.host.job import Executed
from pikaforge.pipeline.smoke.resp import Connection
from pikaforge.pipeline.smoke.wire import Closed, Wire

EXCHANGES = 40
"""Exchanges of a check that a report has."""


def _nothing() -> Wire:
    raise Closed("there is no server")


def _nowhere(argv: Sequence[str]) -> Executed:
    raise Closed(f"there is no place to run {' '.join(argv)}")


class Session:
    """The steps of a check share connections. Each is made when it is first needed."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        wire: Callable[[], Wire] = _nothing,
        execute: Callable[[Sequence[str]], Executed] = _nowhere,
    ) -> None:
        """Connect to nothing yet.

        Args:
            connect: makes a connection in RESP.
            wire: makes a connection for raw bytes.
            execute: runs a command of the tree. Its words may hold placeholders.
        """
        self._connect, self._new_wire, self.execute = connect, wire, execute
        self._connection: Connection | None = None
        self._wire: Wire | None = None
        self._exchanges: list[str] = []

    def note(self, exchange: str) -> None:
        """Keep what was asked and what came, for the report."""
        if len(self._exchanges) < EXCHANGES:
            self._exchanges.append(exchange)

    def noted(self) -> list[str]:
        """Return what was kept since the last call."""
        kept, self._exchanges = self._exchanges, []
        return kept

    def connection(self) -> Connection:
        """Return the connection in RESP; raise Closed if there can be none."""
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def wire(self) -> Wire:
        """Return the connection for raw bytes; raise Closed if there can be none."""
        if self._wire is None:
            self._wire = self._new_wire()
        return self._wire

    def new_wire(self) -> Wire:
        """Return a connection of the caller's own; raise Closed if there can be none."""
        return self._new_wire()

    def hang_up(self) -> None:
        """Close the connection for raw bytes: after an answer that was wrong, nobody knows where the next begins."""
        if self._wire is not None:
            self._wire.close()
        self._wire = None

    def close(self) -> None:
        """Close all connections."""
        self.hang_up()
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
