"""The base of streams that are made of others."""

from __future__ import annotations

import io


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
