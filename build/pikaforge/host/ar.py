"""Read ar archives: static libraries, and what a DEB is in (ar(5), deb(5))."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from pikaforge.errors import AuditError
from pikaforge.host.archives import LINK_LIMIT, Member, clean
from pikaforge.host.streams import Window

MAGIC = b"!<arch>\n"
HEADER, HEADER_END = 60, b"`\n"
"""Bytes of a member's header, and how it ends. The name is at its start, the size in decimal at 48."""
NAMES, NO_NAME = "//", "(no name)"
"""The member that is a table of long names, and what one without a name is called."""
NAMES_LIMIT = 16 << 20
"""Bytes of the table of long names."""
BSD = "#1/"
"""How a name begins whose length follows; the name itself is at the start of the content."""


@dataclass(frozen=True, slots=True)
class ArEntry:
    """A member of an ar archive, as the archive has it."""

    name: str
    """Without padding, and as GNU ar writes it: it ends with `/`, or is a place in the table of long names."""
    size: int
    """Bytes of the content, which is padded to an even number."""


def ar_entries(stream: IO[bytes], where: str) -> Iterator[ArEntry]:
    """Return the members of an archive. The stream is at the content of each; it may be left anywhere within it.

    Raises:
        AuditError: it is no such archive, or is corrupt.
    """
    if stream.read(len(MAGIC)) != MAGIC:
        raise AuditError("this is no ar archive", where=where)
    place = stream.tell()
    while head := stream.read(HEADER):
        digits = head[48:58].strip()
        if len(head) != HEADER or not digits.isdigit() or not head.endswith(HEADER_END):
            raise AuditError("the package is truncated or corrupt: a header of an ar archive is damaged", where=where)
        size = int(digits)
        yield ArEntry(head[:16].decode("utf-8", "backslashreplace").rstrip(" "), size)
        place += HEADER + size + size % 2
        stream.seek(place)


def ar_members(stream: IO[bytes], where: str) -> Iterator[Member]:
    """Return the members of an archive, also its tables, as files; see `archive_errors` for errors."""
    names = b""
    for entry in ar_entries(stream, where):
        content: IO[bytes] = io.BufferedReader(Window(stream, entry.size))
        if entry.name == NAMES:
            if entry.size > NAMES_LIMIT:
                raise AuditError("the package is corrupt: its table of names is too large", where=where)
            names = content.read()
            yield Member(name=NO_NAME, kind="file", content=io.BytesIO(names))
        else:
            # A table of symbols is one as the first member only.
            yield Member(name=clean(_name(entry, names, content), where) or NO_NAME, kind="file", content=content)


def _name(entry: ArEntry, names: bytes, content: IO[bytes]) -> str:
    """Return the name of a member, which may be at the start of its content, or in the table of names."""
    name = entry.name
    if name.startswith(BSD) and name[len(BSD) :].isdigit():
        raw = content.read(min(int(name[len(BSD) :]), LINK_LIMIT, entry.size))
        return raw.decode("utf-8", "backslashreplace").rstrip("\0")
    if name.startswith("/") and name[1:].isdigit():
        start = int(name[1:])
        raw = names[start : start + LINK_LIMIT].partition(b"\n")[0]
        return raw.decode("utf-8", "backslashreplace").removesuffix("/")
    return name.removesuffix("/")
