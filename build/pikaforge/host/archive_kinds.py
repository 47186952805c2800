"""Tell archives and compressed files by their first bytes, and read those that can be read here.

Names are no evidence: a static library that is called `notes.txt` is one. Sources: the formats' own descriptions, and
for file systems the headers of Linux (include/uapi/linux/magic.h, fs/*/).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from pikaforge.host import ar, cpio
from pikaforge.host.archives import ZIP_SUFFIXES, Member, archive_errors, is_tar, tar_members
from pikaforge.host.raw import joined
from pikaforge.host.streams import decompressed
from pikaforge.host.zips import zip_members

Kind = Literal["tar", "zip", "ar", "cpio", "compressed"]
START = 2048
"""Bytes at the start of a file that tell its kind, but for images of discs."""
DISC, DISC_START = b"CD001", 0x8001
"""The mark of an image of a disc, and where it is (ECMA-119, 6.2.1 and 8.1.2)."""

_COMPRESSED = re.compile(
    rb"\x1f\x8b\x08|\xfd7zXZ\x00|BZh[1-9](?:1AY&SY|\x17rE8P\x90)|\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"
)
"""gzip (RFC 1952), xz, bzip2, and zstd (RFC 8878), whose skippable frames may come first."""
_ZIP = re.compile(rb"(?:JM\x01\x00)?PK\x03\x04|PK\x05\x06|PK\x07\x08PK|Cr24(?s:.{8,1900}?)PK\x03\x04")
"""A zip archive, also an empty one and part of several, and those of Java and of browsers with some bytes before."""
_LZMA = struct.Struct("<BIQ")
"""Properties, bytes of the dictionary, size: what a file of lzma begins with, which has no mark."""
UNREADABLE: Mapping[bytes, str] = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"MSCF\0\0\0\0": "a cabinet archive",
    b"xar!": "a xar archive",
    b"MSWIM\0\0\0": "a WIM archive",
    b"!<thin>\n": "a thin ar archive, whose members are in other files",
    b"\x71\xc7": "a big-endian cpio archive",
    b"\x04\x22\x4d\x18": "compressed by lz4",
    b"\x02\x21\x4c\x18": "compressed by lz4",
    b"LZIP\1": "compressed by lzip",
    b"LRZI": "compressed by lrzip",
    b"\x89LZO\0\r\n\x1a\n": "compressed by lzop",
    b"\x1f\x9d": "compressed by compress",
    b"\x1f\xa0": "compressed by compress",
    b"\x1f\x1e": "compressed by pack",
    b"hsqs": "a squashfs image",
    b"sqsh": "a squashfs image",
    b"\x45\x3d\xcd\x28": "a cramfs image",
    b"QFI\xfb": "a qcow2 image",
    b"KDMV": "a VMDK image",
    b"XFSB": "an XFS file system",
    b"LUKS\xba\xbe": "an encrypted file system",
    b"\x27\x05\x19\x56": "an image for U-Boot",
    b"BC\xc0\xde": "LLVM bitcode, which becomes code when it is compiled",
    b"\xde\xc0\x17\x0b": "LLVM bitcode, which becomes code when it is compiled",
}
"""What holds files or code and cannot be read here, by its first bytes."""
_FURTHER_IN: Mapping[tuple[int, bytes], str] = {
    (DISC_START, DISC): "an image of a disc",
    (512, b"EFI PART"): "an image of a disk",
    (514, b"HdrS"): "a kernel of Linux, which unpacks itself",
    (1024, b"\xe2\xe1\xf5\xe0"): "an EROFS image",
}
"""Further marks, with their places."""


def kind_of(start: bytes) -> Kind | None:
    """Return the kind of an archive or compressed file that can be read here, by its first `START` bytes."""
    if _COMPRESSED.match(start) or _is_lzma(start):
        return "compressed"
    if _ZIP.match(start):
        return "zip"
    if start.startswith(ar.MAGIC):
        return "ar"
    if cpio.is_cpio(start):
        return "cpio"
    return "tar" if is_tar(start) else None


def unreadable(start: bytes) -> str:
    """Return what a file is that cannot be read here and may hold code; empty if it is nothing of the kind."""
    for mark, what in UNREADABLE.items():
        if start.startswith(mark):
            return what
    for (at, mark), what in _FURTHER_IN.items():
        if start[at : at + len(mark)] == mark:
            return what
    if start[1080:1082] == b"\x53\xef" and start[1100:1104] in (bytes(4), b"\1\0\0\0"):  # s_magic, s_rev_level
        return "an ext file system"
    return "a program for UEFI" if _is_uefi(start) else ""


def may_be_disc(start: bytes) -> bool:
    """Return whether the mark of a disc's image is worth looking for: the first blocks are empty, or a boot sector."""
    return start[510:512] == b"\x55\xaa" or not any(start)


def _is_lzma(start: bytes) -> bool:
    """Return whether it looks like lzma: the usual properties, a round dictionary, a size that is unknown or small."""
    if len(start) <= _LZMA.size or not start.startswith(b"\x5d\0\0"):
        return False
    _, dictionary, size = _LZMA.unpack_from(start)
    factor = dictionary // (dictionary & -dictionary) if dictionary else 0
    return factor in (1, 3) and (size == (1 << 64) - 1 or size < 1 << 40) and start[_LZMA.size] == 0


def _is_uefi(start: bytes) -> bool:
    """Return whether it is a program that firmware runs (PE format: subsystems 10 to 13, EFI). Linux runs none."""
    if not start.startswith(b"MZ") or len(start) < 64:
        return False
    at = int.from_bytes(start[60:64], "little")
    return start[at : at + 4] == b"PE\0\0" and int.from_bytes(start[at + 92 : at + 94], "little") in range(10, 14)


def members(path: Path) -> Iterator[Member]:
    """Return the files and links of an archive: of a zip if its name says so, else of a tar archive.

    Raises:
        AuditError: it is no archive, is compressed by a method that cannot be read here, is truncated or corrupt.
    """
    where = str(path)
    read = zip_members if path.name.lower().endswith(ZIP_SUFFIXES) else tar_members
    with archive_errors(where), path.open("rb") as stream:
        yield from read(stream, where)


def members_of(kind: Kind, path: Path, name: str) -> Iterator[Member]:
    """Return the files and links of an archive of a kind, or what a compressed file holds; see `archive_errors`.

    Args:
        kind: what it is.
        path: where it is now.
        name: its own, for errors, and for the name of what is compressed.
    """
    readers: dict[Kind, Callable[[IO[bytes], str], Iterator[Member]]] = {
        "tar": tar_members,
        "zip": zip_members,
        "ar": ar.ar_members,
        "cpio": cpio.cpio_files,
        "compressed": _unpacked,
    }
    with archive_errors(name), path.open("rb") as stream:
        yield from readers[kind](stream, name)


def _unpacked(stream: IO[bytes], name: str) -> Iterator[Member]:
    """Return the members of a compressed tar archive, or the one file that is compressed."""
    with decompressed(stream, name) as plain:
        start = plain.read(START)
        if not is_tar(start):
            inner = PurePosixPath(name.rpartition("!/")[2]).name
            stem = PurePosixPath(inner).stem or inner
            yield Member(name=stem, kind="file", content=joined(start, plain))
            return
    stream.seek(0)
    yield from tar_members(stream, name)
