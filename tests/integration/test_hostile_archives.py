"""Archives that claim or unpack to more than they should: each is refused in time, within 256 MiB of memory."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from unit.nested_files import BY_ZSTD, FINE, zips
from unit.package_files import cpio_member, make_rpm, rpm_of, tar

import pikaforge
from pikaforge.attest.contents import read_package
from pikaforge.audit.inputs import open_inputs
from pikaforge.errors import AuditError

MEMORY = 256 << 10
"""KiB that a reader may take at most, Python and its modules among them (VmHWM: getrusage has the parent's, too)."""
READ = """
import sys
from pathlib import Path
import pikaforge
from pikaforge.attest.contents import read_package
from pikaforge.audit.inputs import open_inputs
from pikaforge.errors import ForgeError
path, scratch = map(Path, sys.argv[1:])
for read in (read_package, lambda path: open_inputs([path], scratch)):
    try:
        read(path)
        print("read")
    except ForgeError as error:
        print(error.exit_code, error.message)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
MIB = bytes(1 << 20)


def header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def zipped(*blocks: bytes, zeros: int = 0) -> bytes:
    """Blocks and so many MiB of zeros, compressed."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as stream:
        for block in blocks:
            stream.write(block)
        for _ in range(zeros):
            stream.write(MIB)
    return out.getvalue()


def deb_of(name: str, data: bytes) -> bytes:
    return b"!<arch>\n" + f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data


def deb_zstd() -> bytes:
    """A DEB of some kB that unpacks to 1 GiB. It is a test for the program where Python has no module for zstd."""
    if shutil.which("zstd") is None:
        pytest.skip("there is no zstd")
    with subprocess.Popen(["zstd", "-1", "-c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as packer:
        assert packer.stdin is not None and packer.stdout is not None
        packer.stdin.write(header("opt/x", size=1 << 30))
        for _ in range(1 << 10):
            packer.stdin.write(MIB)
        packer.stdin.close()
        return deb_of("data.tar.zst", packer.stdout.read())


def deb_xz() -> bytes:
    """A DEB whose dictionary takes 512 MiB."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 29}]
    return deb_of("data.tar.xz", lzma.compress(header("opt/x", size=300 << 20) + MIB * 300, filters=filters))


def wheel(method: int, *, link: bool = False, members: int = 1, size: int = 0, claim: int | None = None) -> bytes:
    """A wheel with members of `size` MiB, which claim another size."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for number in range(members):
            info = zipfile.ZipInfo(f"{number:x}")
            info.compress_type, info.external_attr = method, (0o120777 if link else 0o100644) << 16
            archive.writestr(info, MIB * size, compresslevel=1)
    data = bytearray(out.getvalue())
    if claim is not None:
        data[22:26] = struct.pack("<I", claim)
        at = data.rindex(b"PK\1\2")
        data[at + 24 : at + 28] = struct.pack("<I", claim)
    return bytes(data)


def rpm_header() -> bytes:
    """An RPM of 212 bytes, whose header claims 4 GiB."""
    data = bytearray(make_rpm())
    data[104:112] = struct.pack(">II", 1, 0xFFFFFFFF)
    return bytes(data[:212])


def rpm_links() -> bytes:
    """An RPM with 500,000 names of an empty file."""
    header = [(1000, 6, b"x"), (1125, 6, b"gzip")]
    return rpm_of(header, zipped(*[cpio_member("aa", 0o100644, b"", links=2) * 5000] * 100))


def sparse() -> bytes:
    """A tar archive with a map of a sparse file that does not end."""
    head = bytearray(header("a", tarfile.GNUTYPE_SPARSE))
    head[482] = 1
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return zipped(bytes(head), *[(b"00000000001\0" * 42 + b"\1" + bytes(7)) * 2000] * 100)


def manifests() -> bytes:
    """Four manifests of 28 MB, each a list of numbers."""
    body = b"[" + b"0," * (14 << 20) + b"0]"
    blocks = (
        header("d/" * depth + "manifest.json", size=len(body)) + body + bytes(-len(body) % 512) for depth in (2, 1)
    )
    return zipped(*blocks)


BOMBS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "DEB by zstd": ("x_1_amd64.deb", deb_zstd, "unpacks to more than"),
    "DEB by xz": ("x_1_amd64.deb", deb_xz, "Memory usage limit"),
    "long name": (
        "x.tar.gz",
        lambda: zipped(header("././@LongLink", tarfile.GNUTYPE_LONGNAME, 6 << 30), zeros=600),
        "header in it is too large",
    ),
    "extended header": (
        "x.tar.gz",
        lambda: zipped(header("x", tarfile.XHDTYPE, 6 << 30), zeros=600),
        "header in it is too large",
    ),
    "sparse map": ("x.tar.gz", sparse, "header in it is too large"),
    "link of a wheel": (
        "x-1-py3-none-any.whl",
        lambda: wheel(zipfile.ZIP_DEFLATED, link=True, size=600, claim=100),
        "truncated or corrupt",
    ),
    "wheel by bzip2": (
        "x-1-py3-none-any.whl",
        lambda: wheel(zipfile.ZIP_BZIP2, size=300, claim=1 << 20),
        "compressed by method 12",
    ),
    "list of a wheel": ("x-1-py3-none-any.whl", lambda: wheel(zipfile.ZIP_STORED, members=100_000), "too many members"),
    "header of an RPM": ("x.rpm", rpm_header, "a header has 1 tags with 4294967295 bytes"),
    "links of an RPM": ("x.rpm", rpm_links, "more than 100000 members"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_takes_no_memory(tmp_path: Path, name: str) -> None:
    file, make, message = BOMBS[name]
    path = tmp_path / file
    path.write_bytes(make())
    *said, peak = run(path)
    assert all(line.startswith("4 ") and message in line for line in said), said
    assert int(peak) < MEMORY


@pytest.mark.parametrize("make", [lambda: zipped(tar({"opt/x": b"hi"}, {"l": "opt/x"})), manifests])
def test_what_is_no_bomb_is_read(tmp_path: Path, make: Callable[[], bytes]) -> None:
    """Large manifests are among it: they are not kept."""
    path = tmp_path / "x.tar.gz"
    path.write_bytes(make())
    *said, peak = run(path)
    assert said == ["read", "read"]
    assert int(peak) < MEMORY


# ---- within a package


def archives(depth: int) -> bytes:
    """Archives in archives, 16 in each, and 16 MiB of zeros at the bottom."""
    data = gzip.compress(MIB * 16)
    for _ in range(depth):
        data = zips((str(number), data) for number in range(16))
    return data


WITHIN: dict[str, Callable[[], bytes]] = {
    **{name: BOMBS[name][1] for name in ("long name", "list of a wheel", "header of an RPM")},
    "archives": lambda: archives(2),
}


@pytest.mark.parametrize("name", WITHIN)
def test_a_bomb_within_a_package_takes_no_memory(tmp_path: Path, name: str) -> None:
    """It is left unjudged, and the rest is judged."""
    path = tmp_path / "x.tar"
    path.write_bytes(tar({"odd": WITHIN[name](), "bin/fine": FINE}, {}))
    *said, peak = run(path)
    assert said == ["read", "read"]
    assert int(peak) < MEMORY


OTHER = FINE[:15] + b"\1" + FINE[16:]
"""Another program: the last byte of e_ident is padding (elf(5))."""


@pytest.mark.parametrize("name", BY_ZSTD)
def test_what_is_compressed_by_zstd_is_found(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar({"bin/fine": FINE, "notes.txt": BY_ZSTD[name](OTHER)}, {}))
    [tree] = open_inputs([path], tmp_path / "scratch")
    assert tree.not_judged == ()
    assert OTHER in [file.read_bytes() for file in tree.elves.values()]


def run(path: Path) -> list[str]:
    """What both readers say, and the memory that they took."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path), str(path.parent / "scratch")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(pikaforge.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# ---- names


@pytest.mark.parametrize(
    ("name", "message"),
    [("a/" * 129 + "x", "in 129 folders"), ("a" * 5000, "a name of 5002 letters"), ("../x", "leaves it")],
)
def test_names_that_are_refused(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar({name: b""}, {}))
    with pytest.raises(AuditError, match=message):
        read_package(path)


def test_a_member_without_a_name(tmp_path: Path) -> None:
    """zipfile's `is_dir` raises IndexError for it."""
    path = tmp_path / "x.zip"
    data = bytearray(wheel(zipfile.ZIP_STORED))
    at = data.rindex(b"PK\1\2")
    data[at + 28 : at + 30] = bytes(2)
    data[at + 30 : at + 32] = b"\1\0"  # the name's byte belongs to the extra field
    path.write_bytes(bytes(data))
    with pytest.raises(AuditError):
        read_package(path)


def test_the_deepest_name_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar({"a/" * 127 + "x": b""}, {}))
    assert len(read_package(path).files) == 1


def test_a_long_target_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar({}, {"l": "t" * 5000}))
    with pytest.raises(AuditError, match="5000 bytes long"):
        read_package(path)


def test_a_damaged_header_is_not_the_end(tmp_path: Path) -> None:
    """tarfile takes it for that, and would not show what follows; other programs go on."""

    def members() -> Iterator[bytes]:
        yield header("a")
        yield b"?" * 512
        yield header("b")
        yield bytes(1024)

    path = tmp_path / "x.tar"
    path.write_bytes(b"".join(members()))
    with pytest.raises(AuditError, match="a header is damaged"):
        read_package(path)
