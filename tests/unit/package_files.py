"""Packages made by hand, in every format."""

from __future__ import annotations

import io
import lzma
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence

STRING, BIN = 6, 7
NAME, PAYLOAD_COMPRESSOR, HEADER_SIGNATURE = 1000, 1125, 268


def tar(
    files: Mapping[str, bytes], links: Mapping[str, str], *, prefix: str = "./", hard: Mapping[str, str] | None = None
) -> bytes:
    """A tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for kind, entries in ((tarfile.SYMTYPE, links), (tarfile.LNKTYPE, hard or {})):
            for name, target in entries.items():
                info = tarfile.TarInfo(prefix + name)
                info.type, info.linkname = kind, target
                archive.addfile(info)
    return buffer.getvalue()


def zipped(files: Mapping[str, bytes], links: Mapping[str, str]) -> bytes:
    """A zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for name, target in links.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o120777 << 16
            archive.writestr(info, target)
    return buffer.getvalue()


def deb(files: Mapping[str, bytes], links: Mapping[str, str]) -> bytes:
    """A DEB with files."""
    out = b"!<arch>\n"
    data = lzma.compress(tar(files, links))
    for name, content in (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", data)):
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        out += b"\n" * (len(content) % 2)
    return out


def cpio(
    files: Mapping[str, bytes], links: Mapping[str, str] | None = None, hard: Mapping[str, Sequence[str]] | None = None
) -> bytes:
    """A cpio archive in the format newc; `hard` has more names of a file, which come before it."""
    entries: list[tuple[str, int, bytes, int, int]] = []
    for inode, (name, content) in enumerate(files.items(), 1):
        others = (hard or {}).get(name, ())
        entries += [(other, 0o100755, b"", 1 + len(others), inode) for other in others]
        entries.append((name, 0o100755, content, 1 + len(others), inode))
    entries += [(n, 0o120777, t.encode(), 1, 90 + i) for i, (n, t) in enumerate((links or {}).items())]
    return b"".join(cpio_member(*entry) for entry in [*entries, ("TRAILER!!!", 0, b"", 1, 0)])


def cpio_member(
    name: str, mode: int, content: bytes, links: int = 1, inode: int = 1, *, size: int | None = None
) -> bytes:
    """One member of a cpio archive."""
    raw = f"./{name}".encode() if mode else name.encode()
    length = len(content) if size is None else size
    fields = (inode, mode, 0, 0, links, 0, length, 0, 0, 0, 0, len(raw) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % f for f in fields) + raw + b"\0"
    return head + b"\0" * (-len(head) % 4) + content + b"\0" * (-len(content) % 4)


def rpm_header(entries: Sequence[tuple[int, int, bytes]]) -> bytes:
    """A header of an RPM: tag, type and value of each entry."""
    index, store = b"", b""
    for tag, kind, value in entries:
        index += struct.pack(">IIII", tag, kind, len(store), len(value) if kind == BIN else 1)
        store += value if kind == BIN else value + b"\0"
    return b"\x8e\xad\xe8\x01\0\0\0\0" + struct.pack(">II", len(entries), len(store)) + index + store


def rpm_of(header: Sequence[tuple[int, int, bytes]], payload: bytes, *, signature: bytes = b"") -> bytes:
    """An RPM of a header and a payload."""
    signed = [(HEADER_SIGNATURE, BIN, signature)] if signature else []
    signatures = rpm_header([(NAME, STRING, b"abcde"), *signed])
    lead = b"\xed\xab\xee\xdb".ljust(96, b"\0")
    return lead + signatures + b"\0" * (-len(signatures) % 8) + rpm_header(header) + payload


def rpm(
    files: Mapping[str, bytes],
    links: Mapping[str, str],
    *,
    method: str = "xz",
    pack: Callable[[bytes], bytes] = lzma.compress,
) -> bytes:
    """An RPM with files."""
    header = [(NAME, STRING, b"x"), (PAYLOAD_COMPRESSOR, STRING, method.encode())]
    return rpm_of(header, pack(cpio(files, links)))


def make_rpm(header: bytes = b"about the package", payload: bytes = b"payload", *, signature: bytes = b"") -> bytes:
    """An RPM as far as signing looks at it."""
    return rpm_of([(NAME, BIN, header)], payload, signature=signature)
