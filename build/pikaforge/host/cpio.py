"""Read cpio archives: payloads of RPMs ("newc"), and all that `cpio` and Linux's initramfs write (cpio(5))."""

from __future__ import annotations

import io
import re
import stat
import struct
from binascii import Error, unhexlify
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import IO

from pikaforge.errors import AuditError
from pikaforge.host.archives import LINK_LIMIT, MEMBER_LIMIT, MEMBERS_LIMIT, Member, clean, is_path
from pikaforge.host.raw import joined
from pikaforge.host.streams import Unpacked, Window

MAGICS = (b"070701", b"070702")
"""Without and with checksums. rpm writes the first one."""
STRIPPED = b"07070X"
"""rpm's own format for files above 4 GiB: the sizes are in the header."""
FIELDS = struct.Struct(">13I")
"""ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check, each in hexadecimal."""
HEADER = len(MAGICS[0]) + 2 * FIELDS.size
ODC = re.compile(rb"070707[0-7]{6}([0-7]{6})([0-7]{6})[0-7]{12}([0-7]{6})[0-7]{6}[0-7]{11}([0-7]{6})([0-7]{11})")
"""The portable format, in octal: ino, mode, nlink, bytes of the name and of the file are taken."""
ODC_HEADER = 76
BINARY, BINARY_FIELDS = b"\xc7\x71", struct.Struct("<13H")
"""The old binary format: magic dev ino mode uid gid nlink rdev mtime(2) namesize filesize(2), the higher half first."""
TRAILER = "TRAILER!!!"
BLOCK = 1 << 20

Source = IO[bytes] | Unpacked


@dataclass(frozen=True, slots=True)
class _Head:
    """The header of a member."""

    inode: int
    mode: int
    links: int
    size: int
    name: str
    padding: int = 4
    """The content is padded to a multiple of it."""


def cpio_members(plain: Source, where: str) -> Iterator[Member]:
    """Return the files and links of an archive in the format newc, read one after the other.

    Of several hard links to one file only the last one has the content, so the others follow it; if the file is empty,
    all of them come at the end, as files.

    Raises:
        AuditError: this is no such archive, or a member is too large.
        EOFError: the archive is truncated.
    """
    yield from _members(plain, where, _newc)
    yield from _behind(plain)


def cpio_files(plain: Source, where: str) -> Iterator[Member]:
    """Return the files and links of an archive in any of the formats, and what follows it, as in an initramfs."""
    yield from _members(plain, where, _any)
    yield from _behind(plain)


def _behind(plain: Source) -> Iterator[Member]:
    """Return what follows an archive, if it is more than zeros."""
    while block := plain.read(BLOCK):
        if start := block.lstrip(b"\0"):
            yield Member(name="", kind="rest", content=joined(start, plain))
            return


def is_cpio(start: bytes) -> bool:
    """Return whether a file is a cpio archive that can be read here, by its first bytes."""
    if start.startswith(MAGICS) or ODC.match(start):
        return True
    if not start.startswith(BINARY) or len(start) < BINARY_FIELDS.size:
        return False
    fields = BINARY_FIELDS.unpack_from(start)
    return 0 < fields[10] <= LINK_LIMIT and stat.S_IFMT(fields[3]) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)


def _members(plain: Source, where: str, header: Callable[[Source, str], _Head]) -> Iterator[Member]:
    pending: dict[int, list[Member]] = {}
    waiting = 0
    while (head := header(plain, where)).name != TRAILER:
        mode, size = head.mode, head.size
        if size > (LINK_LIMIT if stat.S_ISLNK(mode) else MEMBER_LIMIT):
            raise AuditError(f"the package's member {head.name} is too large: {size} bytes", where=where)
        name = clean(head.name, where)
        content = io.BufferedReader(Window(plain, size))
        file = Member(name=name, kind="file", content=content, mode=mode & 0o7777)
        if stat.S_ISLNK(mode) and not is_path(target := content.read()):
            yield replace(file, content=io.BytesIO(target))
        elif stat.S_ISLNK(mode):
            yield Member(name=name, kind="symlink", target=target.decode())
        elif stat.S_ISREG(mode) and head.links > 1 and size == 0:
            waiting += 1
            if waiting > MEMBERS_LIMIT:
                raise AuditError(f"the package has more than {MEMBERS_LIMIT} members", where=where)
            pending.setdefault(head.inode, []).append(replace(file, content=io.BytesIO()))
        elif stat.S_ISREG(mode) or size:  # for rpm, the mode in the package's header counts, and not this one
            yield file
            for other in pending.pop(head.inode, []):
                yield Member(name=other.name, kind="hardlink", target=name)
        while content.read(BLOCK):
            pass  # whoever took the member may have left some of it
        plain.read(-size % head.padding)
    for files in pending.values():
        yield from files


def _newc(plain: Source, where: str) -> _Head:
    """Return the next header in the format newc."""
    return _newc_of(plain.read(HEADER), plain, where)


def _any(plain: Source, where: str) -> _Head:
    """Return the next header in any format."""
    start = plain.read(BINARY_FIELDS.size)
    if start.startswith(BINARY) and len(start) == BINARY_FIELDS.size:
        _, _, inode, mode, _, _, links, _, _, _, name_size, high, low = BINARY_FIELDS.unpack(start)
        return _Head(inode, mode, links, high << 16 | low, _name(plain, name_size, name_size % 2, where), 2)
    if start.startswith(b"070707"):
        found = ODC.fullmatch(start + plain.read(ODC_HEADER - len(start)))
        if found is None:
            raise AuditError("the package is corrupt: a cpio archive in it has a bad header", where=where)
        inode, mode, links, name_size, size = (int(field, 8) for field in found.groups())
        return _Head(inode, mode, links, size, _name(plain, name_size, 0, where), 1)
    return _newc_of(start + plain.read(HEADER - len(start)), plain, where)


def _newc_of(head: bytes, plain: Source, where: str) -> _Head:
    if head.startswith(STRIPPED):
        raise AuditError("the RPM has files above 4 GiB, which is not supported", where=where)
    if len(head) != HEADER or not head.startswith(MAGICS):
        raise AuditError("the package is truncated or corrupt: its payload is no cpio archive", where=where)
    try:
        fields = FIELDS.unpack(unhexlify(head[len(MAGICS[0]) :]))
    except Error as error:
        raise AuditError(f"the package is corrupt: its payload has a bad header: {error}", where=where) from error
    name = _name(plain, fields[11], -(HEADER + fields[11]) % 4, where)
    return _Head(fields[0], fields[1], fields[4], fields[6], name)


def _name(plain: Source, size: int, padding: int, where: str) -> str:
    if size > LINK_LIMIT:
        raise AuditError(f"the package is corrupt: a name in its payload has {size} bytes", where=where)
    name = plain.read(size)
    if len(name) != size:
        raise EOFError("a name is cut off")
    plain.read(padding)
    return name.rstrip(b"\0").decode("utf-8", "backslashreplace")
