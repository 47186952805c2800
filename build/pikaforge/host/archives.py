"""Read archives: tar and zip, by the standard library. Every reader of archives in this tool uses this module.

`members` is for packages, `tar_entries` for archives of this tool and source trees. Package formats that are built on
tar or zip (`formats/`) use the functions for streams. Only `extract` uses names of members as paths on disk.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import posixpath
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Literal, cast

from pikaforge.errors import AuditError, HostError

MEMBER_LIMIT = 4 << 30
"""Bytes of one member. More is a bomb, or cannot be mapped on a build host."""
LINK_LIMIT = 1 << 16
"""Bytes of a link's target, and of a name if a format has no smaller limit. Linux has 4096 (PATH_MAX)."""
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar.zst", ".tzst")
ZIP_SUFFIXES = (".zip",)
ARCHIVE_SUFFIXES = (*TAR_SUFFIXES, *ZIP_SUFFIXES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file or link of a package."""

    name: str
    """Relative, `/`-separated, without `.` and `..`."""
    kind: Literal["file", "symlink", "hardlink"]
    target: str = ""
    """Of a symbolic link its text, of a hard link the name of its file."""
    content: IO[bytes] | None = None
    """Of a file. It can be read until the next member is asked for."""
    mode: int | None = None
    """Permission bits of a file; None if the package does not have them."""


def clean(name: str, where: str) -> str:
    """Return a member's name as a relative one.

    Raises:
        AuditError: it leads out of its package.
    """
    parts = [p for p in name.replace("\0", "").split("/") if p not in ("", ".")]
    if ".." in parts:
        raise AuditError(f"the package has a member that leaves it: {name!r}", where=where)
    return "/".join(parts)


def members(path: Path) -> Iterator[Member]:
    """Return the files and links of an archive: of a zip if its name says so, else of a tar archive.

    Raises:
        AuditError: it is no archive, is compressed by a method that cannot be read here, is truncated or corrupt.
    """
    where = str(path)
    read = zip_members if path.name.lower().endswith(ZIP_SUFFIXES) else tar_members
    with archive_errors(where), path.open("rb") as stream:
        yield from read(stream, where)


@contextmanager
def archive_errors(where: str) -> Iterator[None]:
    """Raise AuditError for errors of the libraries, which they raise while members are asked for or read."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, struct.error) as error:
        raise AuditError(f"the package is truncated or corrupt: {error}", where=where) from error
    except (OSError, NotImplementedError, RuntimeError) as error:  # RuntimeError: zipfile, for encrypted members
        raise AuditError(f"the package cannot be read: {error}", where=where) from error


def tar_members(stream: IO[bytes] | Window, where: str) -> Iterator[Member]:
    """Return the files and links of a tar archive, whatever it is compressed by; see `archive_errors` for errors."""
    with decompressed(stream, where) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
        for info in tar:
            name = clean(info.name, where)
            if info.issym():
                yield Member(name=name, kind="symlink", target=info.linkname)
            elif info.islnk():
                yield Member(name=name, kind="hardlink", target=clean(info.linkname, where))
            elif info.isfile():
                yield Member(name=name, kind="file", content=tar.extractfile(info), mode=info.mode & 0o7777)


def zip_members(stream: IO[bytes], where: str) -> Iterator[Member]:
    """Return the files and links of a zip archive; see `archive_errors` for errors."""
    with zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            name = clean(info.filename, where)
            if stat.S_ISLNK(info.external_attr >> 16):
                if info.file_size > LINK_LIMIT:
                    raise AuditError(f"the link {name} in the package is {info.file_size} bytes long", where=where)
                yield Member(name=name, kind="symlink", target=archive.read(info).decode("utf-8", "replace"))
                continue
            with archive.open(info) as content:
                # Zero if it was packed on a system without modes.
                mode = (info.external_attr >> 16) & 0o7777 or None
                yield Member(name=name, kind="file", content=content, mode=mode)


class Window(io.RawIOBase):
    """The next `size` bytes of a stream, as a stream. It raises EOFError if the stream has fewer bytes."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._left = stream, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        content = self._stream.read(min(len(view), self._left))
        if not content and self._left and len(view):
            raise EOFError(f"{self._left} bytes are missing at its end")
        view[: len(content)] = content
        self._left -= len(content)
        return len(content)


@contextmanager
def decompressed(stream: IO[bytes] | Window, where: str, *, method: str = "") -> Iterator[IO[bytes]]:
    """Open the rest of a stream without its compression, which its first bytes tell.

    Args:
        stream: read from its current place.
        where: for errors.
        method: of the compression, as the package names it; for the error if it is unknown here.

    Raises:
        AuditError: the method is unknown, or needs a program that this machine lacks.
    """
    buffered = io.BufferedReader(cast(io.RawIOBase, stream), 1 << 16)
    start = buffered.peek(6)[:6]
    plain: IO[bytes]
    if start[:2] == b"\x1f\x8b":
        plain = cast(IO[bytes], gzip.GzipFile(fileobj=buffered))
    elif start == b"\xfd7zXZ\0" or start[:3] == b"\x5d\0\0":
        plain = cast(IO[bytes], lzma.LZMAFile(buffered))  # noqa: SIM115  # closed below
    elif start[:3] == b"BZh":
        plain = cast(IO[bytes], bz2.BZ2File(buffered))
    elif start[:4] == b"\x28\xb5\x2f\xfd":
        plain = _zstd(buffered, where)
    elif method in ("", "gzip", "identity") or method.startswith("un"):
        plain = buffered
    else:
        raise AuditError(f"the package is compressed by {method}, which cannot be read", where=where)
    try:
        yield plain
    finally:
        if plain is not buffered:
            plain.close()
        buffered.detach()


def _zstd(stream: IO[bytes], where: str) -> IO[bytes]:
    """Decompress by the module of Python 3.14, the module `zstandard`, or the program zstd, whichever is there."""
    try:
        return cast(IO[bytes], importlib.import_module("compression.zstd").ZstdFile(stream))
    except ImportError:
        pass
    try:
        return cast(IO[bytes], importlib.import_module("zstandard").ZstdDecompressor().stream_reader(stream))
    except ImportError:
        pass
    from pikaforge.host import process  # noqa: PLC0415

    if process.find("zstd") is None:
        raise AuditError(
            "the package is compressed by zstd, which Python before 3.14 cannot read",
            where=where,
            hint="install the program zstd, or unpack it and name the folder",
        )
    done = process.run(["zstd", "-dc", "--long=31"], stdin=stream.read(), timeout=600)
    if done.status != 0:
        raise AuditError(f"the package is truncated or corrupt: {done.errors().strip()}", where=where)
    return io.BytesIO(done.stdout)


@dataclass(frozen=True, slots=True, kw_only=True)
class TarEntry:
    """A member of a tar archive, as the archive has it."""

    name: str
    """As it is stored: it may begin with `./`, and it may lead anywhere."""
    kind: Literal["file", "folder", "symlink", "hardlink", "other"]
    target: str
    """Of a link: where it leads, as it is stored."""
    mode: int
    """Permission bits."""
    size: int
    """Bytes of a file."""
    modified: int
    """Seconds since 1970."""
    where: str
    """The archive, for errors."""
    _tar: tarfile.TarFile
    _info: tarfile.TarInfo

    def open(self) -> IO[bytes]:
        """Open the content of a file, or of the file that a link leads to.

        Raises:
            AuditError: there is none.
        """
        try:
            content = self._tar.extractfile(self._info)
        except KeyError:  # the link leads to nothing in the archive
            content = None
        if content is None:
            raise AuditError(f"{self.name} is no file", where=self.where)
        return content

    def read(self, limit: int = MEMBER_LIMIT) -> bytes:
        """Return the first `limit` bytes of the content; see `open`.

        Raises:
            AuditError: the archive is truncated or corrupt, or there is no content.
        """
        with archive_errors(self.where), self.open() as content:
            return content.read(limit)


def tar_entries(archive: Path | bytes, *, where: str = "") -> Iterator[TarEntry]:
    """Return all members of a tar archive, of every kind, with the names that they have there.

    For archives of this tool and source trees. `members` is for archives that anybody may have written.

    Args:
        archive: plain, or compressed by gzip, bzip2 or xz.
        where: what it is, for errors; its path if it has one.

    Raises:
        AuditError: it is truncated, corrupt or no tar archive.
    """
    where = where or (str(archive) if isinstance(archive, Path) else "an archive in memory")
    with archive_errors(where), _opened(archive) as stream, tarfile.open(fileobj=stream) as tar:
        for info in tar:
            yield TarEntry(
                name=info.name,
                kind=_kind(info),
                target=info.linkname,
                mode=info.mode & 0o7777,
                size=info.size,
                modified=int(info.mtime),
                where=where,
                _tar=tar,
                _info=info,
            )


def _opened(archive: Path | bytes) -> IO[bytes]:
    return io.BytesIO(archive) if isinstance(archive, bytes) else archive.open("rb")


def _kind(info: tarfile.TarInfo) -> Literal["file", "folder", "symlink", "hardlink", "other"]:
    if info.isfile():
        return "file"
    if info.isdir():
        return "folder"
    if info.issym():
        return "symlink"
    return "hardlink" if info.islnk() else "other"


def extract(archive: Path | bytes, folder: Path) -> None:
    """Unpack a tar archive into a folder.

    The library's filter is not trusted alone (it has been bypassed): names and targets of links are checked here, too.

    Raises:
        HostError: a member would be outside of the folder, or is no file, folder or link.
    """
    with _opened(archive) as stream, tarfile.open(fileobj=stream, mode="r:*") as tar:
        for info in tar:
            names = [info.name]
            if info.issym():
                names.append(str(PurePosixPath(info.name).parent / info.linkname))
            elif info.islnk():
                names.append(info.linkname)
            for name in names:
                if name.startswith("/") or PurePosixPath(posixpath.normpath(name)).parts[:1] == ("..",):
                    raise HostError(f"the archive has a member outside its folder: {name}")
            if _kind(info) == "other":
                raise HostError(f"the archive has a member that is no file, folder or link: {info.name}")
            tar.extract(info, folder, filter="tar") if hasattr(tarfile, "tar_filter") else tar.extract(info, folder)


def tar_size(stream: BinaryIO) -> int:
    """Return the size of a plain tar archive up to the two blocks of zeros that end it; of anything else, all of it."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while tar.next() is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            return min(size, tar.offset + 2 * tarfile.BLOCKSIZE)
    except tarfile.TarError:
        return size


class _Chunks(io.RawIOBase):
    """A stream of blocks that come one after the other."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        while size < 0 or len(self._rest) < size:
            block = next(self._blocks, None)
            if block is None:
                size = len(self._rest)
                break
            self._rest += block
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


@contextmanager
def first_file(blocks: Iterator[bytes]) -> Iterator[IO[bytes] | None]:
    """Open the first member of a plain tar archive that comes in blocks; None if it is no file."""
    with tarfile.open(fileobj=_Chunks(blocks), mode="r|") as tar:
        info = tar.next()
        yield tar.extractfile(info) if info is not None and info.isfile() else None
