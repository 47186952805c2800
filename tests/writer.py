"""A client that writes without an end, and knows which keys a server has acknowledged: none of them may be lost.

with Writer(host, 9221) as writer:
    writer.more(100)            # waits until that many more keys are acknowledged
    host.ok("systemctl", "kill", "-s", "KILL", "pika@9221")
    writer.more(100)
assert writer.lost() == []
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import hosts

from pikaforge.pipeline.smoke.resp import Closed, ErrorReply, NoConnection, Reply

if TYPE_CHECKING:
    from pikaforge.pipeline.smoke.resp import Connection

BATCH = 100
"""Keys that are read back with one packet."""
PAUSE = 0.02
"""Seconds after a connection that failed, and after a write that was refused."""


class Writer:
    """Writes keys with numbers, one after the other, on connections that it makes anew when one ends."""

    def __init__(
        self, host: hosts.Host, port: int, *, password: str = "", prefix: str = "written", pace: float = 0.0
    ) -> None:
        self.acknowledged: list[int] = []
        """Numbers of keys, in their order."""
        self.refused: list[str] = []
        """Errors that the server has replied."""
        self._host, self._port, self._password, self._prefix = host, port, password, prefix
        self._pace = pace
        """Seconds between writes."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _words(self, number: int) -> tuple[str, str]:
        return f"{self._prefix}:{number:08}", f"value of {number}"

    def _write(self) -> None:
        number = 0
        while not self._ended.is_set():
            # A host that is off has no address.
            with suppress(NoConnection, Closed, AssertionError), self._connect() as connection:
                while not self._ended.wait(self._pace):
                    number += 1
                    (said,) = connection.exchange([("SET", *self._words(number))])
                    if said == "OK":
                        self.acknowledged.append(number)
                    else:
                        self.refused.append(said.text if isinstance(said, ErrorReply) else str(said))
                        self._ended.wait(PAUSE)
            self._ended.wait(PAUSE)

    def _connect(self) -> Connection:
        return self._host.connect(self._port, password=self._password)

    def more(self, count: int, *, within: float = 60.0) -> None:
        """Wait until some more keys are acknowledged."""
        wanted = len(self.acknowledged) + count
        hosts.wait(lambda: len(self.acknowledged) >= wanted, f"{count} more writes are acknowledged", within=within)

    def lost(self, host: hosts.Host | None = None, port: int = 0) -> list[int]:
        """Return the numbers of the acknowledged keys that the server, or another one, does not have."""
        numbers = tuple(self.acknowledged)
        found: list[Reply] = []
        with (host or self._host).connect(port or self._port, password=self._password) as connection:
            for begin in range(0, len(numbers), BATCH):
                found += connection.exchange(self._questions(numbers[begin : begin + BATCH]))
        return [number for number, value in zip(numbers, found, strict=True) if value != self._words(number)[1]]

    def _questions(self, numbers: Sequence[int]) -> list[tuple[str, str]]:
        return [("GET", self._words(number)[0]) for number in numbers]
