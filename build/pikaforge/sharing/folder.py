"""A shared store in a folder, such as one on a network file system.

Whoever else may write there is not trusted: only regular files are read, no link below the folder is followed, files
are made and changed by descriptors, and what is read is bounded. Folders that are made in it get its own rights, so
that who may write into it may write into these.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
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
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
OF_ONE = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENXIO, errno.EIO})
"""Errors that another object need not have: another user has put a link there, or a file that only he can read."""
DAY = 86_400.0
"""Seconds after which a use of a file is noted again, as its date."""


class Folder:
    """Objects in a folder. See `objects.ObjectStore`."""

    def __init__(self, root: Path, *, marks: bool = True) -> None:
        """Look at nothing yet.

        Args:
            root: the folder.
            marks: whether a use of a file is noted as its date; a machine that only reads changes nothing.
        """
        self._root = root
        self._marks = marks
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
        with self._errors(), self._place(path) as place:
            found = None if place is None else _looked_at(*place)
        return found.st_size if found is not None and stat.S_ISREG(found.st_mode) else None

    def write(self, path: str, content: Path | bytes) -> None:
        """Write an object beside, and rename it. Nothing is done by a path that another user could lead elsewhere."""
        name = f".new.{RunId.current().text}-{secrets.token_hex(8)}"
        with self._errors(), self._made(f"{BESIDE}/{name}") as (folder, _), self._made(path) as (into, final):
            if not self._swept:
                self._swept = True
                sweep(Path(f"/proc/self/fd/{folder}"))
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with os.fdopen(os.open(name, flags, 0o600, dir_fd=folder), "wb") as stream:
                    _copy(content, stream)
                    stream.flush()
                    os.fsync(stream.fileno())
                    os.fchmod(stream.fileno(), 0o644)
                os.rename(name, final, src_dir_fd=folder, dst_dir_fd=into)
            except BaseException:
                with suppress(OSError):
                    os.unlink(name, dir_fd=folder)
                raise

    @contextmanager
    def _opened(self, path: str) -> Iterator[IO[bytes] | None]:
        """Open an object; None if there is none."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with ExitStack() as stack:
            place = stack.enter_context(self._place(path))
            found = None if place is None else _looked_at(*place)
            if place is None or found is None:
                yield None
                return
            _check_regular(found)  # some devices do something when they are opened
            stream = stack.enter_context(os.fdopen(os.open(place[1], flags, dir_fd=place[0]), "rb"))
            found = os.fstat(stream.fileno())
            _check_regular(found)
            if self._marks and time.time() - found.st_mtime > DAY:
                with suppress(OSError):  # who may only read changes no date
                    os.utime(stream.fileno())
            yield stream

    @contextmanager
    def _made(self, path: str) -> Iterator[tuple[int, str]]:
        """Yield what `_place` does; folders are made, with the rights that the store's has."""
        with self._place(path, make=True) as place:
            assert place is not None
            yield place

    @contextmanager
    def _place(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str] | None]:
        """Yield the folder of an object, as a descriptor, and its name; None if there is none. No link is followed."""
        *folders, name = path.split("/")
        with ExitStack() as stack:
            here = stack.enter_context(_descriptor(self._root_folder()))
            rights = stat.S_IMODE(os.fstat(here).st_mode)
            for folder in folders:
                made = make and _made_folder(folder, here)
                try:
                    below = os.open(folder, FOLDER | os.O_NOFOLLOW, dir_fd=here)
                except FileNotFoundError:
                    yield None
                    return
                here = stack.enter_context(_descriptor(below))
                if made:
                    with suppress(OSError):  # some file systems have none
                        os.fchmod(here, rights)
            yield here, name

    def _root_folder(self) -> int:
        """Open the folder. Without it ObjectError is raised: a file system that is not mounted is no empty store."""
        try:
            return os.open(self._root, FOLDER)
        except (FileNotFoundError, NotADirectoryError):
            raise ObjectError("there is no such folder", ends=True) from None
        except OSError as error:
            raise ObjectError(error.strerror or type(error).__name__, ends=True) from None

    @staticmethod
    @contextmanager
    def _errors() -> Iterator[None]:
        try:
            yield
        except OSError as error:
            ends = error.errno not in OF_ONE
            raise ObjectError(error.strerror or type(error).__name__, ends=ends) from None


def _looked_at(folder: int, name: str) -> os.stat_result | None:
    """Return what is under a name; None if nothing is."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _check_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ObjectError("it is no regular file", ends=False)


def _made_folder(name: str, above: int) -> bool:
    """Make a folder unless something is there; return whether it was made."""
    try:
        os.mkdir(name, dir_fd=above)
    except FileExistsError:
        return False
    return True


@contextmanager
def _descriptor(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


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
        return Folder(local_path(settings.url), marks=settings.write)


KIND = FolderKind()
