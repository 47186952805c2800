"""Files that are whole or not there, and that are on the disk when a function returns: also after a power cut."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from pathlib import Path

from pikaforge.host.disk import full_disk_errors
from pikaforge.host.run_id import RunId

BEGIN = 180
"""Bytes of a file's name in the temporary name, which may have 255 (NAME_MAX) with run id and random letters."""


def write_through(path: Path) -> None:
    """Write what a file has, or which names a folder has, to the disk, so that it is there after a power cut."""
    folder = path.is_dir()
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_DIRECTORY if folder else 0))
    try:
        # Some file systems cannot for folders; of files it would be a loss.
        with suppress(OSError) if folder else nullcontext():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(folder: Path) -> None:
    """Make a folder and those above it, whose names stay after a power cut."""
    if not folder.is_dir():
        make_folders(folder.parent)
        folder.mkdir(exist_ok=True)
        write_through(folder.parent)


def write_atomically(path: Path, data: bytes | str | Iterable[bytes]) -> None:
    """Write a file under a temporary name and rename it, so that no reader ever sees a part of it.

    It is on the disk when this returns, and so are its name and the folders that are made for it.

    Args:
        path: of the file.
        data: what it will have, as a whole or in pieces.
    """
    make_folders(path.parent)
    content = data.encode() if isinstance(data, str) else data
    pieces = (content,) if isinstance(content, bytes) else content
    # With the run id at its end, by which `leftovers.sweep` finds it if this process is killed.
    begin = os.fsdecode(os.fsencode(path.name)[:BEGIN])
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{begin}.{RunId.current().text}-")
    try:
        with full_disk_errors(path.parent), os.fdopen(descriptor, "wb") as stream:
            stream.writelines(pieces)
            stream.flush()
            os.fsync(stream.fileno())
        Path(beside).chmod(0o644)
        Path(beside).replace(path)
        write_through(path.parent)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def write_changed(path: Path, data: bytes | str) -> bool:
    """Write a file unless it is there with the same bytes; return whether it was written."""
    if has(path, data):
        return False
    write_atomically(path, data)
    return True


def has(path: Path, data: bytes | str) -> bool:
    """Return whether a file is there and has these bytes."""
    return _has(path, (data.encode() if isinstance(data, str) else data,))


def write_pieces(path: Path, pieces: Callable[[], Iterable[bytes]]) -> None:
    """Write a file unless it is there with the same bytes. Nobody has to hold all of a large one.

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
