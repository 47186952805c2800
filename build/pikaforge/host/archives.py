"""Members of archives, the bounds on them, and tar archives, by the standard library.

Every reader of archives in this tool uses this module: `tar_members` is for archives that anybody may have written,
`tar_entries` for archives of this tool and source trees. `zips`, `cpio` and `ar` read the other kinds, `archive_kinds`
tells them apart. Only `extract` uses names of members as paths on disk.
"""

from __future__ import annotations

import io
import lzma
import posixpath
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
from pikaforge.host.disk import is_full
from pikaforge.host.raw import Chunks, joined
from pikaforge.host.streams import BLOCK, Unpacked, Window, decompressed
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
SPARSE = "GNU.sparse."
"""How settings of a sparse member begin. GNU tar takes versions of the format for it that tarfile does not know."""
GLOBAL_SIZES = ("size", SPARSE)
"""Settings for all members that readers of tar archives do not agree on: what one takes for a member, another skips."""
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar.zst", ".tzst")
ZIP_SUFFIXES = (".zip",)
ARCHIVE_SUFFIXES = (*TAR_SUFFIXES, *ZIP_SUFFIXES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file or link of a package."""

    name: str
    """Relative, `/`-separated, without `.` and `..`."""
    kind: Literal["file", "symlink", "hardlink", "rest", "unread"]
    """`rest`: bytes that are no member, which some programs read as members all the same. `unread`: what cannot be
    read here, or what programs do not read alike. Both have no name of their own."""
    target: str = ""
    """Of a symbolic link its text, of a hard link the name of its file, of what is unread the reason."""
    content: IO[bytes] | None = None
    """Of a file or a rest. It can be read until the next member is asked for."""
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
        if not member.name and member.kind not in ("rest", "unread"):
            raise AuditError("the package has a member without a name", where=where)
        if len(member.target) > LINK_LIMIT:
            raise AuditError(f"the link {member.name} in the package is {len(member.target)} bytes long", where=where)
        if number > MEMBERS_LIMIT or letters > NAMES_LIMIT:
            raise AuditError(
                f"the package has more than {MEMBERS_LIMIT} members, or names of more than {size_text(NAMES_LIMIT)}",
                where=where,
            )
        yield member


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
        if is_full(error):  # that of who writes what is read
            raise
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
        if any(name.startswith(GLOBAL_SIZES) for name in tar.pax_headers):
            raise AuditError("the package is corrupt: it has one size for all its members", where=where)
        at = tar.offset
        if keep:
            number += 1
        else:
            _kept(tar).clear()
        yield info


def tar_members(stream: IO[bytes] | Window, where: str) -> Iterator[Member]:
    """Return the files and links of a tar archive, whatever it is compressed by; see `archive_errors` for errors.

    Programs unpack a member of an unknown type as a file, so it is one here. What follows the end of the archive is
    read by `tar --ignore-zeros`.
    """
    with _tar(stream, where) as (tar, plain):
        for info in _headers(tar, plain, where):
            name = clean(info.name, where)
            kind = _kind(info) if info.type in tarfile.SUPPORTED_TYPES else "file"
            if info.issparse() or any(key.startswith(SPARSE) for key in info.pax_headers):
                raise AuditError(f"the package's member {name} is sparse, which is not supported", where=where)
            if info.size and kind != "file":
                why = f"{name} is no file and has a size, so programs differ in what they take for the next member"
                yield Member(name="", kind="unread", target=why)
            if kind == "symlink":
                yield Member(name=name, kind="symlink", target=_text(info.linkname))
            elif kind == "hardlink":
                yield Member(name=name, kind="hardlink", target=clean(info.linkname, where))
            elif kind == "file" and (info.isfile() or info.size):
                if info.size > MEMBER_LIMIT:
                    raise AuditError(f"the package's member {name} is too large: {info.size} bytes", where=where)
                yield Member(name=name, kind="file", content=tar.extractfile(info), mode=info.mode & 0o7777)
        yield from _behind(plain, where)


def _behind(plain: Unpacked, where: str) -> Iterator[Member]:
    """Return what follows the end of a tar archive, if it is more than zeros."""
    try:
        while block := plain.read(BLOCK):
            if start := block.lstrip(b"\0"):
                # A header begins where the block of 512 bytes does that has the first of these bytes.
                begin = (len(block) - len(start)) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
                yield Member(name="", kind="rest", content=joined(block[begin:], plain))
                return
    except (zlib.error, lzma.LZMAError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the system's; gzip has none
            raise
        yield Member(name="", kind="unread", target="what follows its end cannot be unpacked")


def is_path(target: bytes) -> bool:
    """Return whether a link can lead there. What else has a link's mode is written as a file by some programs."""
    try:
        return target.decode().isprintable()
    except UnicodeDecodeError:
        return False


def is_tar(start: bytes) -> bool:
    """Return whether a file is a plain tar archive, by its first block of 512 bytes."""
    try:
        tarfile.TarInfo.frombuf(start[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _text(text: str) -> str:
    """Return a name of tarfile, which has halves of surrogates for bytes that are not UTF-8: nothing can write them."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


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


def members_of(blocks: Iterator[bytes]) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """Yield name, size and content of each member of a plain tar archive that comes in blocks.

    The content is None for what is no file. It can be read until the next member is asked for.
    """
    with tarfile.open(fileobj=Chunks(blocks), mode="r|") as tar:
        while (info := tar.next()) is not None:
            yield info.name, info.size, tar.extractfile(info) if info.isfile() else None
            _kept(tar).clear()  # it would keep them all
