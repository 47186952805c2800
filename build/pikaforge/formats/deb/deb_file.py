"""Read DEBs as files: an ar archive with the package's files in its member data.tar (deb(5))."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pikaforge.errors import AuditError
from pikaforge.host.ar import MAGIC, ar_entries, ar_members
from pikaforge.host.archives import Member, archive_errors, tar_members
from pikaforge.host.streams import Window

DATA = "data.tar"
START = MAGIC + b"debian-binary"


def deb_members(path: Path) -> Iterator[Member]:
    """Return the files and links of a DEB.

    Raises:
        AuditError: it is no DEB, is compressed by a method that cannot be read here, is truncated or corrupt.
    """
    where = str(path)
    with archive_errors(where), path.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise AuditError("this is no DEB", where=where)
        stream.seek(0)
        for entry in ar_entries(stream, where):
            if entry.name.startswith(DATA):
                yield from tar_members(Window(stream, entry.size), where)
                return
        raise AuditError(f"the DEB is truncated or corrupt: it has no {DATA}", where=where)


def deb_wrapping(path: Path) -> Iterator[Member]:
    """Return the members of the ar archive, but for the first data.tar: scripts that dpkg runs are in control.tar."""
    where, seen = str(path), False
    with archive_errors(where), path.open("rb") as stream:
        try:
            for member in ar_members(stream, where):
                if seen or not member.name.startswith(DATA):
                    yield member
                seen = seen or member.name.startswith(DATA)
        except AuditError as error:
            yield Member(name="", kind="unread", target=error.message)
