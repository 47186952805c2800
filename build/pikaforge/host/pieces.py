"""Files whose bytes come in pieces, so that nobody has to hold all of a large one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from pikaforge.host.store import write_atomically


def write_pieces(path: Path, pieces: Callable[[], Iterable[bytes]]) -> None:
    """Write a file unless it is there with the same bytes.

    Args:
        path: of the file.
        pieces: makes its bytes; they are the same each time.
    """
    if not _has(path, pieces()):
        write_atomically(path, pieces())


def _has(path: Path, pieces: Iterable[bytes]) -> bool:
    """Return whether a file is there and has these bytes. Nothing is made behind the first difference."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return all(stream.read(len(piece)) == piece for piece in pieces) and not stream.read(1)
