"""Room on disks: how much a load test needs at most, and how much is left for others."""

from __future__ import annotations

from dataclasses import dataclass

from pikaforge.errors import FullDiskError
from pikaforge.host.text import size_text

KEY = 64
"""Bytes that a server adds to each key, beside what `disk_factor` says."""
RESERVE, PART = 1 << 30, 20
"""Bytes that must stay free, or the twentieth part of a smaller disk: servers do not mend themselves on a full one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A file system."""

    name: str
    """For people: `the disk of the container engine`."""
    free: int
    total: int

    @property
    def reserve(self) -> int:
        """The bytes that must stay free."""
        return min(RESERVE, self.total // PART)


def needed(keys: int, pair_bytes: int, factor: float) -> int:
    """Return the bytes that a server needs on disk at most.

    Args:
        keys: that are still to be written.
        pair_bytes: of a key and its value.
        factor: bytes on disk for each of them: logs, copies while files are compacted.
    """
    return round(keys * (pair_bytes + KEY) * factor)


def check_before(room: Room, need: int) -> None:
    """Raise FullDiskError if a disk may become full."""
    if room.free - room.reserve < need:
        raise FullDiskError(
            f"{room.name} has {size_text(room.free)} free; this load test may need {size_text(need)}, "
            f"and {size_text(room.reserve)} must stay free",
            hint="free space there, or write fewer keys (--keys)\n"
            "`disk_factor` under product.bench in matrix.yaml says how much a key may take",
        )


def check_while(room: Room, done: int) -> None:
    """Raise FullDiskError if a disk is about to become full."""
    if room.free < room.reserve:
        raise FullDiskError(
            f"{room.name} has only {size_text(room.free)} left: the load was stopped after {done:,} keys",
            hint="free space there, and run the same command again: it goes on where it was",
        )
