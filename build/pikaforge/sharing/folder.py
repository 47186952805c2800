"""A shared store in a folder, such as one on a network file system.

Whoever else may write there is not trusted: only regular files are read, no link is followed at the end of a path, and
what is read is bounded.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from pikaforge.host import process
from pikaforge.host.http import local_path
from pikaforge.host.leftovers import sweep
from pikaforge.host.run_id import RunId
from pikaforge.host.text import size_text
from pikaforge.sharing.objects import ObjectError, ObjectStoreSettings

BESIDE = ".beside"
"""Folder of files that are being written. They have the run id in their names, by which a later run finds them."""
BLOCK = 1 << 20
DAY = 86_400.0
"""Seconds after which a use of a file is noted again, as its date."""


class Folder:
    """Objects in a folder. See `objects.ObjectStore`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.where = str(root)
        self._swept = False

    def read(self, path: str, *, limit: int) -> bytes | None:
        """Return an object; None if there is none."""
        with self._errors(), self._opened(path) as stream:
            if stream is None:
                return None
            data = stream.read(limit + 1)
        if len(data) > limit:
            raise ObjectError(f"it is larger than {size_text(limit)}", ends=False)
        return data

    def download(self, path: str, into: Path, *, size: int) -> bool:
        """Copy an object to a file; return whether there is one."""
        with into.open("wb") as target, self._opened_here(path) as stream:
            left = size + 1
            while stream is not None and left:
                process.pause(0)
                block = self._block(stream, min(BLOCK, left))
                if not block:
                    break
                target.write(block)  # an error of this machine, not of the store
                left -= len(block)
            return stream is not None

    def _block(self, stream: IO[bytes], size: int) -> bytes:
        with self._errors():
            return stream.read(size)

    @contextmanager
    def _opened_here(self, path: str) -> Iterator[IO[bytes] | None]:
        """Open an object as `_opened` does, but let errors of the block pass."""
        with ExitStack() as stack:
            with self._errors():
                stream = stack.enter_context(self._opened(path))
            yield stream

    def size(self, path: str) -> int | None:
        """Return the bytes of an object; None if there is none."""
        with self._errors():
            try:
                found = (self._root / path).lstat()
            except FileNotFoundError:
                self._check_root()
                return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def write(self, path: str, content: Path | bytes) -> None:
        """Write an object beside, and rename it."""
        target, folder = self._root / path, self._root / BESIDE
        with self._errors():
            self._check_root()
            folder.mkdir(exist_ok=True)
            if not self._swept:
                self._swept = True
                sweep(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, beside = tempfile.mkstemp(dir=folder, prefix=f".new.{RunId.current().text}-")
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    _copy(content, stream)
                    stream.flush()
                    os.fsync(stream.fileno())
                Path(beside).chmod(0o644)
                Path(beside).replace(target)
            except BaseException:
                with suppress(OSError):
                    Path(beside).unlink(missing_ok=True)
                raise

    @contextmanager
    def _opened(self, path: str) -> Iterator[IO[bytes] | None]:
        """Open an object; None if there is none."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self._root / path, flags)
        except FileNotFoundError:
            self._check_root()
            yield None
            return
        with os.fdopen(descriptor, "rb") as stream:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ObjectError("it is no regular file", ends=False)
            if time.time() - found.st_mtime > DAY:
                with suppress(OSError):  # who may only read changes no date
                    os.utime(descriptor)
            yield stream

    def _check_root(self) -> None:
        """Raise ObjectError without the folder: a file system that is not mounted is no empty store."""
        if not self._root.is_dir():
            raise ObjectError("there is no such folder", ends=True)

    @staticmethod
    @contextmanager
    def _errors() -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ObjectError(error.strerror or type(error).__name__, ends=True) from None


def _copy(content: Path | bytes, stream: IO[bytes]) -> None:
    if isinstance(content, bytes):
        stream.write(content)
        return
    with content.open("rb") as source:
        while block := source.read(BLOCK):
            process.pause(0)
            stream.write(block)


class FolderKind:
    """Shared stores in a folder. See `objects.ObjectStoreKind`."""

    title = "a folder"

    def open(self, settings: ObjectStoreSettings) -> Folder:
        """Return the folder of a file:// URL."""
        return Folder(local_path(settings.url))


KIND = FolderKind()
