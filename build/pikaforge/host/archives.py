"""Read archives: tar and zip, by the standard library. Every reader of archives in this tool uses this module.

`members` is for packages, `tar_entries` for archives of this tool and source trees. Package formats that are built on
tar or zip (`formats/`) use the functions for streams. Only `extract` uses names of members as paths on disk.
"""

from __future__ import annotations

import io
import lzma
import posixpath
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Literal

from pikaforge.errors import AuditError, HostError
from pikaforge.host.raw import Chunks
from pikaforge.host.streams import ListBounded, Unpacked, Window, decompressed, too_large, unpacked_limit
from pikaforge.host.text import size_text

MEMBER_LIMIT = 4 << 30
"""Bytes of one member. More is a bomb, or cannot be mapped on a build host."""
LINK_LIMIT = 4096
"""Bytes of a link's target and of a name, as in Linux (PATH_MAX)."""
DEPTH_LIMIT = 128
"""Folders in each other."""
MEMBERS_LIMIT, NAMES_LIMIT = 100_000, 16 << 20
"""Members of a package, and bytes of all their names and targets. The tree of Linux has 90,000 files."""
HEADER_LIMIT = 128 << 10
"""Bytes that describe one member of a tar archive: extended headers, and blocks with long names."""
GLOBAL_LIMIT = 64
"""Settings that a tar archive may have for all its members (pax(1), typeflag g)."""
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Ways to compress members of a zip archive that can be read piece by piece. Wheels have no others."""
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
        AuditError: it leads out of its package, or is too long or too deep.
    """
    if len(name) > LINK_LIMIT:
        raise AuditError(f"the package has a member with a name of {len(name)} letters: {name[:40]!r}…", where=where)
    parts = [p for p in name.replace("\0", "").split("/") if p not in ("", ".")]
    if ".." in parts:
        raise AuditError(f"the package has a member that leaves it: {name!r}", where=where)
    if len(parts) > DEPTH_LIMIT:
        raise AuditError(f"the package has a member in {len(parts) - 1} folders: {name[:40]!r}…", where=where)
    return _text("/".join(parts))


def bounded(members: Iterable[Member], where: str) -> Iterator[Member]:
    """Return members as they are.

    Raises:
        AuditError: there are too many, their names are too long together, or a link's target is too long.
    """
    letters = 0
    for number, member in enumerate(members, 1):
        letters += len(member.name) + len(member.target)
        if not member.name:
            raise AuditError("the package has a member without a name", where=where)
        if len(member.target) > LINK_LIMIT:
            raise AuditError(f"the link {member.name} in the package is {len(member.target)} bytes long", where=where)
        if number > MEMBERS_LIMIT or letters > NAMES_LIMIT:
            raise AuditError(
                f"the package has more than {MEMBERS_LIMIT} members, or names of more than {size_text(NAMES_LIMIT)}",
                where=where,
            )
        yield member


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
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        lzma.LZMAError,
        zlib.error,
        EOFError,
        struct.error,
        ValueError,
    ) as error:
        raise AuditError(f"the package is truncated or corrupt: {error}", where=where) from error
    except (OSError, NotImplementedError, RuntimeError) as error:  # RuntimeError: zipfile, for encrypted members
        raise AuditError(f"the package cannot be read: {error}", where=where) from error


class _Info(tarfile.TarInfo):
    """A member of a tar archive. A damaged header is an error, where tarfile takes it for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Info:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if type(error).__name__ != "InvalidHeaderError":
                raise
            raise tarfile.ReadError(f"a header is damaged: {error}") from error


def _kept(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """Return the headers that an archive keeps. It adds each that it reads."""
    kept: list[tarfile.TarInfo] = tar.members  # type: ignore[attr-defined]
    return kept


@contextmanager
def _tar(stream: IO[bytes] | Window, where: str) -> Iterator[tuple[tarfile.TarFile, Unpacked]]:
    """Open a tar archive, whatever it is compressed by, with a bound on what its headers may take."""
    with decompressed(stream, where) as plain:
        plain.allowance = HEADER_LIMIT  # the first header is read when the archive is opened
        with tarfile.open(fileobj=plain, mode="r:", tarinfo=_Info) as tar:
            yield tar, plain


def _headers(tar: tarfile.TarFile, plain: Unpacked, where: str, *, keep: bool = False) -> Iterator[tarfile.TarInfo]:
    """Return the headers of an archive.

    Args:
        tar: the archive.
        plain: its stream.
        where: for errors.
        keep: whether the archive keeps them, to find what links lead to. It reads all of them when one is looked for.
    """
    at, number = -1, 0
    while True:
        if number and number < len(_kept(tar)):
            yield _kept(tar)[number]
            number += 1
            continue
        if at >= 0 and plain.tell() < tar.offset:
            plain.seek(tar.offset - 1)  # skip the content, which the allowance is not for
        plain.allowance = HEADER_LIMIT
        info = tar.next()
        plain.allowance = None
        if info is None:
            return
        if info.size < 0 or tar.offset <= at:
            raise AuditError("the package is corrupt: a member has a size that cannot be", where=where)
        if len(tar.pax_headers) > GLOBAL_LIMIT:
            raise AuditError("the package is corrupt: it has too many settings for all members", where=where)
        at = tar.offset
        if keep:
            number += 1
        else:
            _kept(tar).clear()
        yield info


def tar_members(stream: IO[bytes] | Window, where: str) -> Iterator[Member]:
    """Return the files and links of a tar archive, whatever it is compressed by; see `archive_errors` for errors."""
    with _tar(stream, where) as (tar, plain):
        for info in _headers(tar, plain, where):
            name = clean(info.name, where)
            if info.issparse():
                raise AuditError(f"the package's member {name} is sparse, which is not supported", where=where)
            if info.issym():
                yield Member(name=name, kind="symlink", target=_text(info.linkname))
            elif info.islnk():
                yield Member(name=name, kind="hardlink", target=clean(info.linkname, where))
            elif info.isfile():
                if info.size > MEMBER_LIMIT:
                    raise AuditError(f"the package's member {name} is too large: {info.size} bytes", where=where)
                yield Member(name=name, kind="file", content=tar.extractfile(info), mode=info.mode & 0o7777)


def _text(text: str) -> str:
    """Return a name of tarfile, which has halves of surrogates for bytes that are not UTF-8: nothing can write them."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def zip_members(stream: IO[bytes], where: str) -> Iterator[Member]:
    """Return the files and links of a zip archive; see `archive_errors` for errors."""
    packed = stream.seek(0, io.SEEK_END)
    limit = unpacked_limit(packed)
    with zipfile.ZipFile(ListBounded(stream, where)) as archive:
        infos = archive.infolist()
        if sum(info.file_size for info in infos) > limit:
            raise too_large(limit, where)
        for info in infos:
            if info.filename.endswith("/"):  # `is_dir` takes an empty name for an error of its own
                continue
            name = clean(info.filename, where)
            if info.compress_type not in ZIP_METHODS:
                raise AuditError(
                    f"the package's member {name} is compressed by method {info.compress_type}, which cannot be read",
                    where=where,
                )
            if info.file_size > (LINK_LIMIT if stat.S_ISLNK(info.external_attr >> 16) else MEMBER_LIMIT):
                kind = "link" if stat.S_ISLNK(info.external_attr >> 16) else "member"
                raise AuditError(f"the {kind} {name} in the package is {info.file_size} bytes long", where=where)
            with archive.open(info) as content:
                if stat.S_ISLNK(info.external_attr >> 16):
                    # By its size, and not to its end: then zipfile unpacks all that is compressed, whatever its size.
                    target = content.read(LINK_LIMIT).decode("utf-8", "backslashreplace")
                    yield Member(name=name, kind="symlink", target=target)
                    continue
                # Zero if it was packed on a system without modes.
                mode = (info.external_attr >> 16) & 0o7777 or None
                yield Member(name=name, kind="file", content=content, mode=mode)


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
        archive: plain, or compressed by gzip, bzip2, xz or zstd.
        where: what it is, for errors; its path if it has one.

    Raises:
        AuditError: it is truncated, corrupt or no tar archive.
    """
    where = where or (str(archive) if isinstance(archive, Path) else "an archive in memory")
    with archive_errors(where), _opened(archive) as stream, _tar(stream, where) as (tar, plain):
        for info in _headers(tar, plain, where, keep=True):
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
        HostError: a member would be outside of the folder, goes through a link, or is no file, folder or link.
        AuditError: the archive is corrupt.
    """
    where = str(archive) if isinstance(archive, Path) else "an archive in memory"
    links: set[PurePosixPath] = set()
    with archive_errors(where), _opened(archive) as stream, _tar(stream, where) as (tar, plain):
        for info in _headers(tar, plain, where, keep=True):
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
            # A path through a link may lead elsewhere than it says. No archive of this tool has one.
            own = PurePosixPath(posixpath.normpath(info.name))
            if own in links or links.intersection(own.parents):
                raise HostError(f"the archive has a member that goes through a link: {info.name}")
            if info.issym():
                links.add(own)
            tar.extract(info, folder, filter="tar") if hasattr(tarfile, "tar_filter") else tar.extract(info, folder)


def tar_size(stream: BinaryIO) -> int:
    """Return the size of a plain tar archive up to the two blocks of zeros that end it; of anything else, all of it."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while tar.next() is not None:
                _kept(tar).clear()  # it would keep them all
            return min(size, tar.offset + 2 * tarfile.BLOCKSIZE)
    except tarfile.TarError:
        return size


@contextmanager
def first_file(blocks: Iterator[bytes]) -> Iterator[IO[bytes] | None]:
    """Open the first member of a plain tar archive that comes in blocks; None if it is no file."""
    with tarfile.open(fileobj=Chunks(blocks), mode="r|") as tar:
        info = tar.next()
        yield tar.extractfile(info) if info is not None and info.isfile() else None
