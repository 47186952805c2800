"""Read RPMs: lead, signature header, header and payload. Every reader of RPMs in this tool uses this module.

Source: rpm's docs/manual/format.md, include/rpm/rpmtag.h (tags) and lib/header.c (limits).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO

from pikaforge.errors import AuditError
from pikaforge.host.archives import Member, archive_errors
from pikaforge.host.cpio import cpio_members
from pikaforge.host.streams import decompressed

LEAD_SIZE, LEAD_MAGIC = 96, b"\xed\xab\xee\xdb"
HEADER_MAGIC = b"\x8e\xad\xe8\x01"
INTRO = struct.Struct(">4s4xII")
"""Magic, reserved bytes, number of index entries, bytes of the store."""
ENTRY = struct.Struct(">4I")
"""Tag, type, offset in the store, number of values."""
TAGS_LIMIT, STORE_LIMIT = 0xFFFF, 32 << 20
"""rpm refuses headers with more tags (lib/header.c: HEADER_TAGS_MAX). It takes stores of 256 MiB, which no file of
this tool is read into: the one of 50,000 files has 8 MiB."""
BIN, ALIGNMENT = 7, 8
"""Type of a value of bytes; bytes to a multiple of which the signature header is padded."""
HEADER_SIGNATURES = (268, 267)
"""RPMSIGTAG_RSA and RPMSIGTAG_DSA: signatures of the header alone, which has the payload's digest."""
PAYLOAD_COMPRESSOR = 1125
"""RPMTAG_PAYLOADCOMPRESSOR; gzip where it is missing."""


class RpmError(AuditError):
    """A file is no RPM, or is truncated or corrupt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RpmHeader:
    """One of the two headers of an RPM."""

    raw: bytes
    """The whole header: introduction, index and store."""
    values: Mapping[int, tuple[int, int, int]]
    """Of each tag type, offset in `raw` and number of values. Of a tag that is there twice, the last."""

    def data(self, tag: int) -> bytes:
        """Return the value of a tag that holds bytes; empty if it is missing or is cut off."""
        kind, start, count = self.values.get(tag, (BIN, 0, 0))
        return self.raw[start : start + count] if kind == BIN else b""

    def text(self, tag: int, default: str = "") -> str:
        """Return the value of a tag that holds one text."""
        if tag not in self.values:
            return default
        _, start, _ = self.values[tag]
        end = self.raw.find(b"\0", start)
        return self.raw[start : end if end >= 0 else None].decode("utf-8", "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class RpmFile:
    """The headers of an RPM, and where its payload begins."""

    path: Path
    signatures: RpmHeader
    header: RpmHeader
    payload: int
    """Offset in the file."""

    @property
    def signature(self) -> bytes:
        """The binary OpenPGP signature of the header; empty if there is none."""
        return next((data for tag in HEADER_SIGNATURES if (data := self.signatures.data(tag))), b"")

    def body(self) -> str:
        """Return the SHA-256 of header and payload. Signing does not change it: RPMs with the same one are the same."""
        digest = sha256(self.header.raw)
        with self.path.open("rb") as stream:
            stream.seek(self.payload)
            while block := stream.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    def members(self) -> Iterator[Member]:
        """Return the files and links of the payload.

        Raises:
            AuditError: it is compressed by a method that cannot be read here, is truncated or corrupt.
        """
        where, method = str(self.path), self.header.text(PAYLOAD_COMPRESSOR, "gzip")
        with archive_errors(where), self.path.open("rb") as stream:
            stream.seek(self.payload)
            with decompressed(stream, where, method=method) as plain:
                yield from cpio_members(plain, where)


def read_rpm(path: Path) -> RpmFile:
    """Read the headers of an RPM.

    Raises:
        RpmError: it is no RPM, or is truncated or corrupt.
    """
    try:
        with path.open("rb") as stream:
            lead = stream.read(LEAD_SIZE)
            if len(lead) != LEAD_SIZE or not lead.startswith(LEAD_MAGIC):
                raise RpmError("this is no RPM", where=str(path))
            signatures = _header(stream, path)
            stream.read(-len(signatures.raw) % ALIGNMENT)
            header = _header(stream, path)
            return RpmFile(path=path, signatures=signatures, header=header, payload=stream.tell())
    except OSError as error:
        raise RpmError(f"the RPM cannot be read: {error.strerror}", where=str(path)) from error


def _header(stream: IO[bytes], path: Path) -> RpmHeader:
    """Read the header that begins here. It is never longer than the file, nor than rpm allows."""
    start, intro = stream.tell(), stream.read(INTRO.size)
    magic, count, size = INTRO.unpack(intro) if len(intro) == INTRO.size else (b"", 0, 0)
    if magic != HEADER_MAGIC:
        raise RpmError("the RPM is truncated or corrupt: it has no header", where=str(path))
    if count > TAGS_LIMIT or size > STORE_LIMIT:
        raise RpmError(f"the RPM is corrupt: a header has {count} tags with {size} bytes", where=str(path))
    length = INTRO.size + count * ENTRY.size + size
    if start + length > os.fstat(stream.fileno()).st_size:
        raise RpmError("the RPM is truncated: its header is cut off", where=str(path))
    raw = intro + stream.read(length - INTRO.size)
    store = INTRO.size + count * ENTRY.size
    values = {}
    for tag, kind, offset, number in ENTRY.iter_unpack(raw[INTRO.size : store]):
        if offset > size:
            raise RpmError(f"the RPM is corrupt: the tag {tag} is outside of its header", where=str(path))
        values[tag] = (kind, store + offset, number)
    return RpmHeader(raw=raw, values=values)
