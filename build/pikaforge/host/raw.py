"""Streams that are made of others: their base, and one of blocks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import chain
from typing import IO, Protocol, cast


class RawStream(io.RawIOBase):
    """A stream that can be read. A member of the family says what comes next (`some`)."""

    def readable(self) -> bool:
        return True

    def some(self, size: int) -> bytes:
        """Return at most `size` bytes, and none at the end only."""
        raise NotImplementedError

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self.some(len(view)) if len(view) else b""
        view[: len(data)] = data
        return len(data)


class Chunks(io.RawIOBase):
    """A stream of blocks that come one after the other."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        made: list[memoryview] = []
        missing = size
        while missing != 0:
            if not self._rest:
                block = next(self._blocks, None)
                if block is None:
                    break
                self._rest = memoryview(block)
            part = self._rest if missing < 0 else self._rest[:missing]
            self._rest = self._rest[len(part) :]
            made.append(part)
            missing -= len(part) if missing > 0 else 0
        return b"".join(made)


class Readable(Protocol):
    """What has bytes to read, one after the other."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, and none at the end only."""


def joined(start: bytes, rest: Readable) -> IO[bytes]:
    """Return a stream of bytes that were read already, and of all that follows them."""
    return cast(IO[bytes], Chunks(chain([start] if start else [], iter(lambda: rest.read(1 << 16), b""))))
