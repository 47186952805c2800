"""Small packages that package managers' libraries read, made without their tools: many of them in no time."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
from collections.abc import Sequence

INT32, STRING, BIN, STRING_ARRAY, I18N = 4, 6, 7, 8, 9
"""Types of an RPM's tags (rpm's docs/manual/format_header.md)."""
REGION = 16
"""Bytes of an entry of a header's index, and of the trailer of its region."""
BUILD_TIME = 1604318400


def rpm(name: str = "demo", version: str = "1.0", release: str = "1", *, payload: bytes = b"") -> bytes:
    """An RPM without files; its payload is no archive."""
    nevra = f"{name}-{version}-{release}"
    content = gzip.compress(payload or nevra.encode(), mtime=0)
    header = _header(
        63,
        [
            (1000, STRING, [name]),
            (1001, STRING, [version]),
            (1002, STRING, [release]),
            (1004, I18N, ["A small package"]),
            (1005, I18N, ["It has nothing in it."]),
            (1006, INT32, [BUILD_TIME]),
            (1007, STRING, ["localhost"]),
            (1009, INT32, [len(content)]),
            (1014, STRING, ["MIT"]),
            (1016, I18N, ["Unspecified"]),
            (1021, STRING, ["linux"]),
            (1022, STRING, ["x86_64"]),
            (1044, STRING, [f"{nevra}.src.rpm"]),
            (1047, STRING_ARRAY, [name]),
            (1112, INT32, [8]),
            (1113, STRING_ARRAY, [f"{version}-{release}"]),
            (1124, STRING, ["cpio"]),
            (1125, STRING, ["gzip"]),
        ],
    )
    digest = hashlib.sha256(header).hexdigest()
    signatures = _header(62, [(273, STRING, [digest]), (1000, INT32, [len(header) + len(content)])])
    lead = struct.pack(">4sBBHH66sHH16x", b"\xed\xab\xee\xdb", 3, 0, 0, 1, nevra.encode()[:65], 1, 5)
    return lead + signatures + b"\0" * (-len(signatures) % 8) + header + content


def _header(region: int, tags: Sequence[tuple[int, int, Sequence[int | str]]]) -> bytes:
    """A header whose tags lie in an immutable region, as rpm's own do."""
    index, store = b"", b""
    for tag, kind, values in tags:
        if not values:
            continue
        if kind == INT32:
            store += b"\0" * (-len(store) % 4)
        index += struct.pack(">IIII", tag, kind, len(store), len(values))
        for value in values:
            store += struct.pack(">I", value) if isinstance(value, int) else f"{value}\0".encode()
    count = len(index) // REGION + 1
    first = struct.pack(">IIII", region, BIN, len(store), REGION)
    store += struct.pack(">IIiI", region, BIN, -count * REGION, REGION)
    return b"\x8e\xad\xe8\x01\0\0\0\0" + struct.pack(">II", count, len(store)) + first + index + store


def deb(name: str = "demo", version: str = "1.0-1", *, content: bytes = b"") -> bytes:
    """A DEB with one file."""
    control = (
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: Jo Doe <jo@example.org>\n"
        "Description: A small package\n It has one file.\n"
    )
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": _tar({"./control": control.encode()}),
        "data.tar.gz": _tar({f"./opt/{name}/file": content or version.encode()}),
    }
    archive = b"!<arch>\n"
    for member, data in members.items():
        head = f"{member:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n"
        archive += head.encode() + data + b"\n" * (len(data) % 2)
    return archive


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), mtime=0)
