"""The file with the number of acknowledged keys of each connection of a load test.

The processes of the load write to it as soon as a reply has come, by a memory map: that costs no call of the system,
and what was written is in the kernel's hands. So it outlives a killed process, as the server's own data does.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path

from pikaforge.host.durable import write_atomically

WIDTH = 8
"""Bytes of a number, in the machine's order. The kernel never sees a half of an aligned one."""


class Acknowledged:
    """The file, open."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._numbers = memoryview(self._map).cast("Q")

    @staticmethod
    def make(path: Path, connections: int) -> None:
        """Make the file of a load test that begins."""
        write_atomically(path, bytes(connections * WIDTH))  # no holes: a full disk would kill who writes to one

    def keys(self, connection: int) -> int:
        """Return the number of keys that were acknowledged on a connection."""
        return self._numbers[connection]

    def note(self, connection: int, keys: int) -> None:
        """Note the number of keys that were acknowledged on a connection."""
        self._numbers[connection] = keys

    def all(self) -> Sequence[int]:
        """Return the numbers of all connections."""
        return self._numbers.tolist()

    def close(self) -> None:
        """Close it."""
        self._numbers.release()
        self._map.close()
