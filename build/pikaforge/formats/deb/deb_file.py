"""Read DEBs as files: an ar archive with the package's files in its member data.tar (deb(5))."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pikaforge.errors import AuditError
from pikaforge.host.archives import Member, archive_errors, tar_members
from pikaforge.host.streams import Window

MAGIC = b"!<arch>\n"
HEADER, HEADER_END = 60, b"`\n"
"""Bytes of a member's header, and how it ends. The name is at its start, the size in decimal at 48."""
DATA = "data.tar"


def deb_members(path: Path) -> Iterator[Member]:
    """Return the files and links of a DEB.

    Raises:
        AuditError: it is no DEB, is compressed by a method that cannot be read here, is truncated or corrupt.
    """
    where = str(path)
    with archive_errors(where), path.open("rb") as stream:
        yield from tar_members(_data(stream, where), where)


def _data(stream: IO[bytes], where: str) -> Window:
    """Return data.tar, compressed as it is."""
    if stream.read(len(MAGIC)) != MAGIC:
        raise AuditError("this is no DEB", where=where)
    while len(head := stream.read(HEADER)) == HEADER:
        name = head[:16].decode("ascii", "replace").rstrip(" /")
        digits = head[48:58].strip()
        if not digits.isdigit() or not head.endswith(HEADER_END):
            break
        size = int(digits)
        if name.startswith(DATA):
            return Window(stream, size)
        stream.seek(size + size % 2, io.SEEK_CUR)
    raise AuditError(f"the DEB is truncated or corrupt: it has no {DATA}", where=where)
