"""Read zip archives, by their lists of members. Bytes that no list names are reported: some programs read them."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from pikaforge.errors import AuditError
from pikaforge.host.archives import LINK_LIMIT, MEMBER_LIMIT, Member, clean, is_path
from pikaforge.host.streams import BLOCK, ListBounded, Window, too_large, unpacked_limit

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Ways to compress members of a zip archive that can be read piece by piece. Wheels have no others."""
LOCAL = b"PK\3\4"
"""How a member begins."""
_LOCAL_HEADER = struct.Struct("<4s2xHH4xIIIHH")
"""Signature, flags, method, CRC, compressed size, size, bytes of the name and of the extra field (APPNOTE 4.3.7)."""
_SIZES_FOLLOW, _IN_EXTRA = 8, 0xFFFFFFFF
"""The flag of members whose sizes follow their bytes, and a size that is in the extra field (APPNOTE 4.4.4, 4.5.3)."""
END, LISTED = b"PK\5\6", b"PK\1\2"
"""How the end of the list begins, and a line of the list."""
_END = struct.Struct("<4s6xHI6x")
"""Signature, lines, bytes of the list (APPNOTE 4.3.16)."""
_COMMENT = 0xFFFF
"""Bytes of a comment behind the end of the list, at most."""
_DESCRIPTOR = 24
"""Bytes of what follows such a member, at most (APPNOTE 4.3.9)."""


def zip_members(stream: IO[bytes], where: str, *, links: bool = True) -> Iterator[Member]:
    """Return the files and links of a zip archive; see `archive_errors` for errors.

    Args:
        stream: the archive.
        where: for errors.
        links: whether its reader makes links. pip does not: it writes what has a link's mode as a file.
    """
    packed = stream.seek(0, io.SEEK_END)
    limit = unpacked_limit(packed)
    with zipfile.ZipFile(ListBounded(stream, where)) as archive:
        infos = archive.infolist()
        if sum(info.file_size for info in infos) > limit:
            raise too_large(limit, where)
        yield from _unlisted(stream, infos, archive.start_dir)
        if (place := _find(stream, archive.start_dir, packed)) >= 0:
            # In a comment, or behind an end that other programs do not take for it.
            yield Member(name="", kind="unread", target=f"there is a member at byte {place}, behind the archive's list")
        for info in infos:
            name = clean(info.filename, where)
            if info.filename.endswith("/"):  # `is_dir` takes an empty name for an error of its own
                if info.file_size:
                    yield Member(name="", kind="unread", target=f"{name} is a folder and has content")
                continue
            if info.compress_type not in METHODS:
                raise AuditError(
                    f"the package's member {name} is compressed by method {info.compress_type}, which cannot be read",
                    where=where,
                )
            if info.file_size > MEMBER_LIMIT:
                raise AuditError(f"the member {name} in the package is {info.file_size} bytes long", where=where)
            if links and stat.S_ISLNK(info.external_attr >> 16) and info.file_size <= LINK_LIMIT:
                with archive.open(info) as content:
                    # By its size, and not to its end: then zipfile unpacks all that is compressed, whatever its size.
                    target = content.read(LINK_LIMIT)
                if is_path(target):
                    yield Member(name=name, kind="symlink", target=target.decode())
                    continue
            with archive.open(info) as content:
                # Zero if it was packed on a system without modes.
                mode = (info.external_attr >> 16) & 0o7777 or None
                yield Member(name=name, kind="file", content=content, mode=mode)


@dataclass(frozen=True, slots=True)
class _Span:
    """Where a listed member is."""

    start: int
    end: int
    """At most: without what may follow its bytes."""
    slack: int
    """Bytes that may follow."""
    differs: str
    """The name, if the member says something else of itself than the list does."""


def _unlisted(stream: IO[bytes], infos: Sequence[zipfile.ZipInfo], end: int) -> Iterator[Member]:
    """Return what programs read that go by the members themselves, and what precedes the first one.

    Such programs read an archive as it comes, without its list, which is at its end.
    """
    spans = sorted((_span(stream, info, end) for info in infos), key=lambda span: span.start)
    for span in spans:
        if span.differs:
            why = f"{span.differs} says something else of itself than the archive's list does, so programs differ"
            yield Member(name="", kind="unread", target=why)
    at, slack = 0, 0
    for start, stop, more in [*((s.start, s.end, s.slack) for s in spans), (end, end, 0)]:
        if at == 0 and start > 0 and spans:
            stream.seek(0)
            yield Member(name="", kind="rest", content=io.BufferedReader(Window(stream, start)))
        elif start > at + slack and (place := _find(stream, at, start)) >= 0:
            why = f"there is a member at byte {place} that the archive's list does not name"
            yield Member(name="", kind="unread", target=why)
        if stop > at:
            at, slack = stop, more


def _span(stream: IO[bytes], info: zipfile.ZipInfo, end: int) -> _Span:
    if not 0 <= info.header_offset <= end - _LOCAL_HEADER.size:
        raise EOFError("a member is cut off")
    stream.seek(info.header_offset)
    raw = stream.read(_LOCAL_HEADER.size)
    _, flags, method, _, packed, size, name, extra = _LOCAL_HEADER.unpack(raw)
    follow = bool(flags & _SIZES_FOLLOW)
    same = method == info.compress_type and (
        follow or _IN_EXTRA in (packed, size) or (packed, size) == (info.compress_size, info.file_size)
    )
    stop = info.header_offset + _LOCAL_HEADER.size + name + extra + info.compress_size
    slack = _DESCRIPTOR if follow else 0
    return _Span(info.header_offset, stop, slack, "" if same else info.filename[:LINK_LIMIT])


def ends_as_zip(stream: IO[bytes]) -> bool:
    """Return whether programs find a zip archive in a stream, by what is at its end: its begin may be anything."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(max(0, size - _END.size - _COMMENT))
    tail = stream.read(_END.size + _COMMENT)
    at = tail.rfind(END)
    if at < 0 or len(tail) - at < _END.size:
        return False
    found: tuple[bytes, int, int] = _END.unpack_from(tail, at)
    _, number, length = found
    begin = size - len(tail) + at - length
    if begin < 0:
        return length == _IN_EXTRA
    stream.seek(begin)
    return number > 0 and stream.read(len(LISTED)) == LISTED


def _find(stream: IO[bytes], start: int, end: int) -> int:
    """Return where a member begins in a part of a stream; -1 if none does."""
    kept = b""
    for at in range(start, end, BLOCK):
        stream.seek(at)
        data = kept + stream.read(min(BLOCK, end - at))
        if (found := data.find(LOCAL)) >= 0:
            return at - len(kept) + found
        kept = data[-len(LOCAL) + 1 :]
    return -1
