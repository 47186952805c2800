"""Packages and archives with a program planted in them, made by hand."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import struct
import subprocess
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Sequence

import pytest
from unit import elf_files as ef
from unit.package_files import cpio, cpio_member, deb, rpm, rpm_of, tar, zipped

FINE = ef.make(ef.Elf(text=ef.RET))
"""A program that runs anywhere."""
OTHERS = [ef.make(ef.Elf(text=ef.RET, data=data)) for data in (b"1", b"2")]
"""Others of this kind."""


def ar(members: Sequence[tuple[str, bytes]]) -> bytes:
    """An ar archive with names as they are given."""
    out = b"!<arch>\n"
    for name, content in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        out += b"\n" * (len(content) % 2)
    return out


def zips(
    members: Iterable[tuple[str, bytes]], *, mode: int = 0o100644, method: int = zipfile.ZIP_DEFLATED, stub: bytes = b""
) -> bytes:
    """A zip archive whose names may be there more than once, behind a stub."""
    buffer = io.BytesIO(stub)
    buffer.seek(len(stub))
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a" if stub else "w") as archive:
        warnings.simplefilter("ignore")
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, method
            archive.writestr(info, content)
    return buffer.getvalue()


def tars(members: Iterable[tuple[str, bytes]], *, kind: bytes = tarfile.REGTYPE, end: bool = True) -> bytes:
    """A tar archive whose names may be there more than once."""
    out = b""
    for name, content in members:
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, len(content)
        out += info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)
    return out + bytes(1024 * end)


def padded(data: bytes) -> bytes:
    """The content of the last member of a tar archive, and its end."""
    return data + bytes(-len(data) % 512) + bytes(1024)


def odc(name: str, content: bytes) -> bytes:
    """A cpio archive in the portable format."""
    out = b""
    for own, mode, data in ((name, 0o100755, content), ("TRAILER!!!", 0, b"")):
        fields = f"070707{0:06o}{1:06o}{mode:06o}{0:06o}{0:06o}{1:06o}{0:06o}{0:011o}{len(own) + 1:06o}{len(data):011o}"
        out += fields.encode() + own.encode() + b"\0" + data
    return out


def old_cpio(name: str, content: bytes) -> bytes:
    """A cpio archive in the old binary format."""
    out = b""
    for own, mode, data in ((name, 0o100755, content), ("TRAILER!!!", 0, b"")):
        raw = own.encode() + b"\0"
        size = len(data)
        fields = (0o070707, 0, 1, mode, 0, 0, 1, 0, 0, 0, len(raw), size >> 16, size & 0xFFFF)
        out += struct.pack("<13H", *fields) + raw + bytes(len(raw) % 2) + data + bytes(size % 2)
    return out


def zstd(data: bytes) -> bytes:
    """Data that the program zstd has compressed."""
    if shutil.which("zstd") is None:
        pytest.skip("there is no zstd")
    return subprocess.run(["zstd", "-1cq"], input=data, stdout=subprocess.PIPE, check=True).stdout


def alone(data: bytes) -> bytes:
    """Data in the format of lzma's old program."""
    return lzma.compress(data, format=lzma.FORMAT_ALONE)


def with_control(program: bytes) -> bytes:
    """A DEB whose first script is a program, which dpkg runs before it unpacks anything."""
    control = gzip.compress(tar({"preinst": program, "control": b"Package: x\n"}, {}))
    data = lzma.compress(tar({"bin/fine": FINE}, {}))
    return ar([("debian-binary", b"2.0\n"), ("control.tar.gz", control), ("data.tar.xz", data)])


def beside_data(program: bytes) -> bytes:
    """A DEB with a member that no package manager reads."""
    data = lzma.compress(tar({"bin/fine": FINE}, {}))
    return ar([("debian-binary", b"2.0\n"), ("control.tar.gz", b""), ("data.tar.xz", data), ("_more", program)])


def pax(**settings: object) -> bytes:
    """An extended header of a tar archive; `__` in a name stands for a dot."""
    lines = []
    for name, value in settings.items():
        body = f" {name.replace('__', '.')}={value}\n"
        lines.append(f"{len(body) + len(str(len(body) + 2))}{body}".encode())
    return tars([("x", b"".join(lines))], kind=tarfile.XHDTYPE, end=False)


def lzma_by(data: bytes, **properties: int) -> bytes:
    """Data in the format of lzma's old program, with properties that it does not give by itself."""
    return lzma.compress(data, format=lzma.FORMAT_ALONE, filters=[{"id": lzma.FILTER_LZMA1, **properties}])


def list_first(members: Sequence[tuple[str, bytes]]) -> bytes:
    """A zip archive that begins with its list."""
    data = zips(members)
    size, at = struct.unpack_from("<II", data, data.rindex(b"PK\5\6") + 12)
    listed, end = bytearray(data[at : at + size]), bytearray(data[at + size :])
    struct.pack_into("<I", listed, 42, size)
    return bytes(listed) + data[:at] + bytes(listed) + bytes(end[:16]) + struct.pack("<I", size + at) + bytes(end[20:])


SCRIPT = b"#!/bin/sh\ntail -c +99 $0 | sh\nexit 0\n"
Maker = Callable[[bytes], bytes]

WITHIN: dict[str, Maker] = {
    "tar": lambda p: tar({"x": p}, {}),
    "old tar": lambda p: tars([("x", p)]),
    "tar.gz": lambda p: gzip.compress(tar({"x": p}, {})),
    "tar.xz": lambda p: lzma.compress(tar({"x": p}, {})),
    "tar.bz2": lambda p: bz2.compress(tar({"x": p}, {})),
    "tar.lzma": lambda p: alone(tar({"x": p}, {})),
    "two tars": lambda p: tar({"y": FINE}, {}) + tar({"x": p}, {}),
    "two tars in gzip": lambda p: gzip.compress(tar({"y": FINE}, {})) + gzip.compress(tar({"x": p}, {})),
    "tar of three gzips": lambda p: gzip.compress(tars([("y", FINE)], end=False)) + gzip.compress(tar({"x": p}, {})),
    "unknown type": lambda p: tars([("x", p)], kind=b"Z"),
    "contiguous": lambda p: tars([("x", p)], kind=tarfile.CONTTYPE),
    "gz": gzip.compress,
    "xz": lzma.compress,
    "two streams of xz": lambda p: lzma.compress(p[:99]) + bytes(4) + lzma.compress(p[99:]),
    "bz2": bz2.compress,
    "lzma": alone,
    "gz of xz of bz2": lambda p: gzip.compress(lzma.compress(bz2.compress(p))),
    "zip": lambda p: zipped({"x": p}, {}),
    "stored zip": lambda p: zips([("x", p)], method=zipfile.ZIP_STORED),
    "zip of links": lambda p: zips([("x", p)], mode=0o120777),
    "zip of small links": lambda p: zips([("x", gzip.compress(p))], mode=0o120777),
    "zip with a name twice": lambda p: zips([("x", p), ("x", FINE)]),
    "zip with a name twice, last": lambda p: zips([("x", FINE), ("x", p)]),
    "zip behind a program": lambda p: zips([("x", FINE)], stub=p),
    "module of Java": lambda p: b"JM\1\0" + zips([("lib/x", p)]),
    "extension of a browser": lambda p: b"Cr24\3\0\0\0\0\0\0\0" + zips([("lib/x", p)]),
    "zip in a zip": lambda p: zipped({"a.zip": zipped({"x": p}, {})}, {}),
    "gem": lambda p: tar({"metadata.gz": b"", "data.tar.gz": gzip.compress(tar({"x": p}, {}))}, {}),
    "DEB": lambda p: deb({"x": p}, {}),
    "script of a DEB": with_control,
    "DEB with more": beside_data,
    "RPM": lambda p: rpm({"x": p}, {}),
    "RPM of gzip": lambda p: rpm({"x": p}, {}, method="gzip", pack=gzip.compress),
    "cpio": lambda p: cpio({"x": p}),
    "cpio with sums": lambda p: cpio({"x": p}).replace(b"070701", b"070702"),
    "portable cpio": lambda p: odc("x", p),
    "old cpio": lambda p: old_cpio("x", p),
    "cpio with another mode": lambda p: cpio_member("x", 0o000755, p) + cpio({"y": FINE}),
    "cpio with a small link": lambda p: cpio_member("x", 0o120777, gzip.compress(p)) + cpio({"y": FINE}),
    "RPM with another mode": lambda p: rpm_of(
        [(1000, 6, b"x")], gzip.compress(cpio_member("x", 0o755, p) + cpio({"y": FINE}))
    ),
    "initramfs": lambda p: cpio({"y": FINE}) + bytes(512) + gzip.compress(cpio({"x": p})),
    "static library": lambda p: ar([("/", b"\0\0\0\0"), ("x.o/", p)]),
    "static library with long names": lambda p: ar([("//", b"a-very-long-name.o/\n"), ("/0", p)]),
    "static library of BSD": lambda p: ar([("#1/20", b"a-very-long-name.o\0\0" + p)]),
    "static library with a name twice": lambda p: ar([("x.o/", FINE), ("x.o/", p), ("y.o/", FINE)]),
    "script and gzip": lambda p: SCRIPT + gzip.compress(p),
    "script and tar.xz": lambda p: SCRIPT + lzma.compress(tar({"x": p}, {})),
    "script and tar": lambda p: SCRIPT + tar({"x": p}, {}),
    "script and program": lambda p: SCRIPT + p,
    "zipapp": lambda p: zips([("x", p)], stub=b"#!/usr/bin/python3\n"),
    "program and zip": lambda p: zips([("x", p)], stub=FINE),
    "program and tar.gz": lambda p: FINE + gzip.compress(tar({"x": p}, {})),
    "program and program": lambda p: FINE + p,
    "program and program and zeros": lambda p: FINE + bytes(5000) + p,
    "program in the data of a program": lambda p: ef.make(ef.Elf(text=ef.RET, data=b"12345" + p)),
    "program of an odd system in a program": lambda p: ef.make(ef.Elf(extra=p[:5] + b"\1\2\x61" + p[8:])),
    "two programs in what a program only reads": lambda p: ef.make(ef.Elf(text=ef.RET, extra=FINE + b"123" + p)),
    "program in a program in a program": lambda p: ef.make(ef.Elf(extra=ef.make(ef.Elf(extra=p)))),
    "eight archives": lambda p: nest(p, 7),
    "tar with a size in another header": lambda p: pax(size=len(p)) + tars([("x", b"")], end=False) + padded(p),
    "tar with a name in another header": lambda p: pax(path="bin/x") + tars([("y", p)]),
    "tar behind zeros": lambda p: bytes(10240) + tars([("x", p)]),
    "tar of gz behind zeros": lambda p: bytes(512) + tars([("x", gzip.compress(p))]),
    "tar behind a block of garbage": lambda p: b"?" * 512 + tars([("x", p)]),
    "tar behind garbage behind a tar": lambda p: tars([("y", FINE)]) + b"?" * 512 + tars([("x", p)]),
    "cpio behind zeros": lambda p: bytes(512) + cpio({"x": gzip.compress(p)}),
    "end of a cpio with content": lambda p: cpio_member("TRAILER!!!", 0, p) + cpio({"y": FINE}),
    "behind the end of an RPM": lambda p: rpm_of([(1000, 6, b"x")], gzip.compress(cpio({"y": FINE}) + cpio({"x": p}))),
    "lzma of other properties": lambda p: lzma_by(p, lc=0, lp=2, pb=0),
    "lzma with a small dictionary": lambda p: lzma_by(p, dict_size=4096),
    "tar in lzma of other properties": lambda p: lzma_by(tar({"x": p}, {}), lc=1),
    "RPM in lzma of other properties": lambda p: rpm({"x": p}, {}, method="lzma", pack=lambda b: lzma_by(b, lc=0)),
    "zip behind a text": lambda p: zips([("x", gzip.compress(p))], stub=b"some text\n" * 99),
    "zip behind a picture": lambda p: zips([("x", p)], stub=b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(range(1, 99))),
    "zip behind a program of Windows": lambda p: b"MZ".ljust(99, b"\1") + zips([("x", p)]),
    "zip behind two zips": lambda p: zips([("y", p)]) + zips([("z", FINE)]) + zips([("x", FINE)]),
    "zip with a mark of parts": lambda p: b"PK00" + zips([("x", p)]),
    "zip that begins with its list": lambda p: list_first([("x", p)]),
    "zip of streams, behind a script": lambda p: SCRIPT + b"# no line" + zips([("x", gzip.compress(p))]),
    "table of symbols that is no table": lambda p: ar([("a.o/", FINE), ("__.SYMDEF", p)]),
    "table of symbols": lambda p: ar([("/", p)]),
    "table of symbols of BSD": lambda p: ar([("#1/12", b"__.SYMDEF\0\0\0" + p)]),
    "table of names": lambda p: ar([("//", p), ("a.o/", FINE)]),
    "library in a library": lambda p: ar([("y.a/", ar([("x.o/", p)]))]),
    "script and program without a line": lambda p: SCRIPT + b"junk" + p,
    "script and zeros and gzip": lambda p: SCRIPT.ljust(4096, b"\0") + gzip.compress(p),
    "script and lzma": lambda p: SCRIPT + lzma_by(p, lc=0),
    "long script and gzip": lambda p: SCRIPT + b"# a line of a long script\n" * 60_000 + gzip.compress(p),
    "script without its first line": lambda p: b": a script\ntail -c +99 $0 | gzip -d\n" + gzip.compress(p),
    "archive of an unknown kind": lambda p: b"\4\0\0\0" + b'{"files": {"x": {}}}'.ljust(96, b"\0") + p + FINE,
    "archive of an unknown kind, far": lambda p: b"\4" + bytes(200_000) + p + FINE,
    "program of Windows and program": lambda p: b"MZ".ljust(512, b"\1") + p,
    "image of a container": lambda p: tar({"manifest.json": b"[]", "a/layer.tar": tar({"x": p, ".wh.y": b""}, {})}, {}),
    "image of a container by digests": lambda p: tar({"blobs/sha256/a": gzip.compress(tar({"x": p}, {}))}, {}),
    "war with a jar": lambda p: zips([("WEB-INF/lib/y.jar", zips([("x.so", p)]))]),
    "DEB with two data.tar": lambda p: ar(
        [
            ("debian-binary", b"2.0\n"),
            ("data.tar", tar({"y": FINE}, {})),
            ("data.tar.gz", gzip.compress(tar({"x": p}, {}))),
        ]
    ),
    "udeb": lambda p: ar([("debian-binary", b"2.0\n"), ("data.tar.lzma", alone(tar({"x": p}, {})))]),
}
"""Files that hold a program, by what they are."""

BY_ZSTD: dict[str, Maker] = {
    "tar.zst": lambda p: zstd(tar({"x": p}, {})),
    "zst": zstd,
    "zst behind a frame to skip": lambda p: b"\x50\x2a\x4d\x18\4\0\0\0skip" + zstd(p),
    "package of conda": lambda p: zipped({"pkg.tar.zst": zstd(tar({"x": p}, {}))}, {}),
}
"""Those that need the program zstd to be made, and to be read."""


def nest(program: bytes, depth: int) -> bytes:
    """A program in an archive in archives."""
    return program if depth == 0 else tar({"x": nest(program, depth - 1)}, {})


PACKAGES: dict[str, tuple[str, Maker]] = {
    "a name twice": ("x.tar", lambda p: tars([("bin/x", p), ("bin/x", FINE)])),
    "a name twice, last": ("x.tar", lambda p: tars([("bin/x", FINE), ("bin/x", p)])),
    "a name three times": (
        "x.tar.gz",
        lambda p: gzip.compress(tars([("x", FINE), ("x", p), ("y", OTHERS[0]), ("x", OTHERS[1]), ("z", FINE)])),
    ),
    "one name, written in two ways": ("x.tar", lambda p: tars([("bin/x", FINE), ("./bin//x", p)])),
    "unknown type": ("x.tar", lambda p: tars([("bin/fine", FINE)], end=False) + tars([("bin/x", p)], kind=b"Z")),
    "behind the end": ("x.tar", lambda p: tars([("bin/x", FINE)]) + tars([("bin/x", p)])),
    "a name twice in a wheel": ("x-1-py3-none-any.whl", lambda p: zips([("x", p), ("x", FINE)])),
    "a link in a wheel": (
        "x-1-py3-none-any.whl",
        lambda p: zips([("x", p)], mode=0o120777, stub=zips([("y", FINE)])),
    ),
    "a link in a zip": ("x.zip", lambda p: zips([("x", p)], mode=0o120777)),
    "before a zip": ("x.zip", lambda p: zips([("x", FINE)], stub=p)),
    "the script of a DEB": ("x_1_amd64.deb", with_control),
    "beside the data of a DEB": ("x_1_amd64.deb", beside_data),
}
"""Packages with a program in a place of their own, by what is odd about them: the name, and what makes it."""
