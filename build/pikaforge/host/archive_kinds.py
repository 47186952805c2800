"""Tell archives and compressed files by their first bytes, and read those that can be read here.

Names are no evidence: a static library that is called `notes.txt` is one. Sources: the formats' own descriptions, and
for file systems the headers of Linux (include/uapi/linux/magic.h, fs/*/).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from pikaforge.host import ar, cpio
from pikaforge.host.archives import ZIP_SUFFIXES, Member, archive_errors, is_tar, tar_members
from pikaforge.host.raw import joined
from pikaforge.host.streams import decompressed, is_lzma
from pikaforge.host.zips import zip_members

Kind = Literal["tar", "zip", "ar", "cpio", "compressed"]
START = 2048
"""Bytes at the start of a file that tell its kind, but for images of discs."""
DISC_START = 0x8001
"""Where the mark of an image of a disc is (ECMA-119, 6.2.1 and 8.1.2; ECMA-167, 2/9.1.2)."""
FURTHEST = 0x10048
"""Bytes at the start of an image that tell its kind."""

_COMPRESSED = re.compile(
    rb"\x1f\x8b\x08|\xfd7zXZ\x00|BZh[1-9](?:1AY&SY|\x17rE8P\x90)|\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"
)
"""gzip (RFC 1952), xz, bzip2, and zstd (RFC 8878), whose skippable frames may come first."""
_ZIP = re.compile(rb"(?:JM\x01\x00|PK00)?PK\x03\x04|PK\x05\x06|PK\x07\x08PK|Cr24(?s:.{8,1900}?)PK\x03\x04")
"""A zip archive, also an empty one and part of several, and those of Java and of browsers with some bytes before."""
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
    **{
        bytes([number]) + b"\xb5\x2f\xfd": "compressed by an old version of zstd"
        for number in (0x1E, *range(0x22, 0x28))
    },
    b"LZIP\0": "compressed by lzip",
    b"LZIP\1": "compressed by lzip",
    b"LRZI": "compressed by lrzip",
    b"RZIP\2": "compressed by rzip",
    b"\xff\x06\0\0sNaPpY": "compressed by snappy",
    b"\0ZCK1": "compressed by zchunk",
    b"drpmDLT": "a delta of an RPM",
    b"flatpak\0": "a bundle of flatpak",
    b"go object ": "an object file of Go, which becomes code when it is linked",
    b"MZqFpD='": "a program for several systems (APE), which unpacks itself",
    b"jartsr='": "a program for several systems (APE), which unpacks itself",
    b"\x89LZO\0\r\n\x1a\n": "compressed by lzop",
    b"\x1f\x9d": "compressed by compress",
    b"\x1f\xa0": "compressed by compress",
    b"\x1f\x1e": "compressed by pack",
    b"\x1f\x9f": "compressed by freeze",
    b"zPQ\1": "a zpaq archive",
    b"zPQ\2": "a zpaq archive",
    b"7kSt\xa01\x83\xd3": "a zpaq archive",
    b"hsqs": "a squashfs image",
    b"sqsh": "a squashfs image",
    b"\x45\x3d\xcd\x28": "a cramfs image",
    b"QFI\xfb": "a qcow2 image",
    b"KDMV": "a VMDK image",
    b"vhdxfile": "a VHDX image",
    b"conectix": "a VHD image",
    b"<<< Oracle VM VirtualBox": "a VDI image",
    b"XFSB": "an XFS file system",
    b"-rom1fs-": "a romfs image",
    b"\x85\x19\1\xe0": "a JFFS2 image",
    b"\x85\x19\2\xe0": "a JFFS2 image",
    b"\x85\x19\3\x20": "a JFFS2 image",
    b"UBI#\1": "a UBI image",
    b"\x31\x18\x10\x06": "a UBIFS image",
    b"LUKS\xba\xbe": "an encrypted file system",
    b"\x27\x05\x19\x56": "an image for U-Boot",
    b"BC\xc0\xde": "LLVM bitcode, which becomes code when it is compiled",
    b"\xde\xc0\x17\x0b": "LLVM bitcode, which becomes code when it is compiled",
}
"""What holds files or code and cannot be read here, by its first bytes."""
_FURTHER_IN: Mapping[tuple[int, bytes], str] = {
    (DISC_START, b"CD001"): "an image of a disc",
    (DISC_START, b"BEA01"): "an image of a disc",
    (0x10040, b"_BHRfS_M"): "a Btrfs file system",
    **{(2, b"-lh%d-" % number): "an lha archive" for number in (0, 1, 4, 5, 6, 7)},
    (7, b"**ACE**"): "an ACE archive",
    (20, b"\xdc\xa7\xc4\xfd"): "a zoo archive",
    (40, b"_FVH"): "an image of firmware",
    (54, b"FAT1"): "a FAT file system",
    (82, b"FAT32   "): "a FAT file system",
    (3, b"NTFS    "): "an NTFS file system",
    (512, b"EFI PART"): "an image of a disk",
    (514, b"HdrS"): "a kernel of Linux, which unpacks itself",
    (1024, b"\x10\x20\xf5\xf2"): "an F2FS file system",
    (1024, b"\xe2\xe1\xf5\xe0"): "an EROFS image",
}
"""Further marks, with their places."""
_DOTNET = 0x8664 ^ 0x7B79
"""The machine of assemblies with code for Linux on x86-64 (runtime of .NET: readytorun-format.md)."""


def kind_of(start: bytes) -> Kind | None:
    """Return the kind of an archive or compressed file that can be read here, by its first `START` bytes."""
    if _COMPRESSED.match(start) or is_lzma(start):
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
    if _has_partitions(start):
        return "an image of a disk"
    return _portable(start)


def may_be_image(start: bytes) -> bool:
    """Return whether marks of images are worth looking for: the first blocks are empty, or a boot sector."""
    return start[510:512] == b"\x55\xaa" or not any(start)


def _has_partitions(start: bytes) -> bool:
    """Return whether a boot sector has a table of partitions: of a disk's image, which is longer than that."""
    table = [start[at : at + 16] for at in range(446, 510, 16)]
    if start[510:512] != b"\x55\xaa" or len(start) < 1024 or any(entry[0] & 0x7F for entry in table):
        return False
    return any(entry[4] and any(entry[8:12]) and any(entry[12:]) for entry in table)


def _portable(start: bytes) -> str:
    """Return what a file of the PE format is that may run here; empty for others, and for programs of Windows."""
    if not start.startswith(b"MZ") or len(start) < 64:
        return ""
    at = int.from_bytes(start[60:64], "little")
    if start[at : at + 4] != b"PE\0\0":
        return ""
    if int.from_bytes(start[at + 4 : at + 6], "little") == _DOTNET:
        return "code that .NET has compiled before"
    # Subsystems 10 to 13: EFI. Linux runs none.
    return "a program for UEFI" if int.from_bytes(start[at + 92 : at + 94], "little") in range(10, 14) else ""


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
