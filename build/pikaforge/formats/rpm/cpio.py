"""Read the payload of an RPM: a cpio archive in the format "newc" (cpio(5))."""

from __future__ import annotations

import io
import stat
import struct
from binascii import Error, unhexlify
from collections.abc import Iterator
from dataclasses import replace
from typing import IO

from pikaforge.errors import AuditError
from pikaforge.host.archives import LINK_LIMIT, MEMBER_LIMIT, MEMBERS_LIMIT, Member, clean
from pikaforge.host.streams import Unpacked, Window

MAGICS = (b"070701", b"070702")
"""Without and with checksums. rpm writes the first one."""
STRIPPED = b"07070X"
"""rpm's own format for files above 4 GiB: the sizes are in the header."""
FIELDS = struct.Struct(">13I")
"""ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check, each in hexadecimal."""
HEADER = len(MAGICS[0]) + 2 * FIELDS.size
TRAILER = "TRAILER!!!"
BLOCK = 1 << 20


def cpio_members(plain: IO[bytes] | Unpacked, where: str) -> Iterator[Member]:
    """Return the files and links of an archive, read one after the other.

    Of several hard links to one file only the last one has the content, so the others follow it; if the file is empty,
    all of them come at the end, as files.

    Raises:
        AuditError: this is no such archive, or a member is too large.
        EOFError: the archive is truncated.
    """
    pending: dict[int, list[Member]] = {}
    waiting = 0
    while True:
        inode, mode, links, size, name = _header(plain, where)
        if name == TRAILER:
            break
        if size > (LINK_LIMIT if stat.S_ISLNK(mode) else MEMBER_LIMIT):
            raise AuditError(f"the package's member {name} is too large: {size} bytes", where=where)
        name = clean(name, where)
        content = io.BufferedReader(Window(plain, size))
        file = Member(name=name, kind="file", content=content, mode=mode & 0o7777)
        if stat.S_ISLNK(mode):
            yield Member(name=name, kind="symlink", target=content.read().decode("utf-8", "backslashreplace"))
        elif stat.S_ISREG(mode) and links > 1 and size == 0:
            waiting += 1
            if waiting > MEMBERS_LIMIT:
                raise AuditError(f"the package has more than {MEMBERS_LIMIT} members", where=where)
            pending.setdefault(inode, []).append(replace(file, content=io.BytesIO()))
        elif stat.S_ISREG(mode):
            yield file
            for other in pending.pop(inode, []):
                yield Member(name=other.name, kind="hardlink", target=name)
        while content.read(BLOCK):
            pass  # whoever took the member may have left some of it
        plain.read(-size % 4)
    for files in pending.values():
        yield from files


def _header(plain: IO[bytes] | Unpacked, where: str) -> tuple[int, int, int, int, str]:
    """Return inode, mode, number of links, size and name of the next member."""
    head = plain.read(HEADER)
    if head.startswith(STRIPPED):
        raise AuditError("the RPM has files above 4 GiB, which is not supported", where=where)
    if len(head) != HEADER or not head.startswith(MAGICS):
        raise AuditError("the RPM is truncated or corrupt: its payload is no cpio archive", where=where)
    try:
        fields = FIELDS.unpack(unhexlify(head[len(MAGICS[0]) :]))
    except Error as error:
        raise AuditError(f"the RPM is corrupt: its payload has a bad header: {error}", where=where) from error
    inode, mode, links, size, name_size = fields[0], fields[1], fields[4], fields[6], fields[11]
    if name_size > LINK_LIMIT:
        raise AuditError(f"the RPM is corrupt: a name in its payload has {name_size} bytes", where=where)
    name = plain.read(name_size)
    if len(name) != name_size:
        raise EOFError("a name is cut off")
    plain.read(-(HEADER + name_size) % 4)
    return inode, mode, links, size, name.rstrip(b"\0").decode("utf-8", "backslashreplace")
