"""Programs that are planted in archives within archives: each is judged, and what cannot be judged is named."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from datetime import date
from pathlib import Path

import pytest
from unit import elf_files as ef
from unit.nested_files import FINE, PACKAGES, WITHIN, ar, nest, pax, tars, zips
from unit.package_files import cpio, deb, tar, zipped

from pikaforge.audit import containers
from pikaforge.audit.allowed_features import from_macros
from pikaforge.audit.audit import audit_paths
from pikaforge.audit.audit_result import AuditResult
from pikaforge.audit.inputs import ElfTree, open_inputs
from pikaforge.errors import AuditError
from pikaforge.host import process

FAULTY = ef.make(ef.Elf(text=ef.AVX2 + ef.RET))
OBJECT = ef.make(ef.Elf(text=ef.RET, kind=1))


def opened(path: Path) -> ElfTree:
    [tree] = open_inputs([path], path.parent / "scratch")
    return tree


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def verdict(path: Path) -> AuditResult:
    allowed = from_macros(["#define __AVX__ 1"], "sandybridge")
    today = date(2026, 6, 15)
    scratch = path.parent / "scratch"
    [result] = audit_paths([path], scratch, target="sandybridge", today=today, allowed=allowed, workers=1)
    return result


# ---- programs in containers


@pytest.mark.parametrize("name", WITHIN)
def test_what_is_in_a_container_is_judged(tmp_path: Path, name: str) -> None:
    """Each is a member of a package, with a name that says nothing; the same one with a good program passes."""
    for program, passes in ((FAULTY, False), (FINE, True)):
        path = written(tmp_path / "x.tar", tar({"bin/fine": FINE, "notes.txt": WITHIN[name](program)}, {}))
        found = verdict(path)
        assert found.passed == passes, found.lines()
        assert all(".txt" in violation.where for violation in found.violations)
    assert opened(path).not_judged == ()


@pytest.mark.parametrize("name", PACKAGES)
def test_what_is_odd_in_a_package_is_judged(tmp_path: Path, name: str) -> None:
    file, make = PACKAGES[name]
    for program, passes in ((FAULTY, False), (FINE, True)):
        path = written(tmp_path / file, make(program))
        assert verdict(path).passed == passes
    assert opened(path).not_judged == ()


@pytest.mark.parametrize("name", ["DEB", "zip", "xz", "static library", "script and gzip", "initramfs"])
def test_a_container_in_a_folder_is_judged(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "fine").write_bytes(FINE)
    for program, passes in ((FAULTY, False), (FINE, True)):
        (root / "data").write_bytes(WITHIN[name](program))
        assert verdict(root).passed == passes
    assert (root / "data").exists()


@pytest.mark.parametrize("name", ["xz", "static library", "cpio", "zipapp", "script and gzip", "tar.gz"])
def test_a_container_is_judged_by_itself(tmp_path: Path, name: str) -> None:
    """Its name says nothing."""
    for program, passes in ((FAULTY, False), (FINE, True)):
        assert verdict(written(tmp_path / "x", WITHIN[name](program))).passed == passes


def test_names(tmp_path: Path) -> None:
    """Links and files of a container have its name before theirs, as if it were a folder."""
    inner = deb({"usr/lib/liby.a": ar([("z.o/", OBJECT)]), "usr/lib/y.so.1": FINE}, {"usr/lib/y.so": "y.so.1"})
    path = written(tmp_path / "x.tar", tar({"a/y.deb": inner, "z.ko.xz": lzma.compress(FINE)}, {"l": "a/y.deb"}))
    tree = opened(path)
    assert {name: file.read_bytes() for name, file in tree.elves.items()} == {
        "a/y.deb!/usr/lib/y.so.1": FINE,
        "a/y.deb!/usr/lib/liby.a!/z.o": OBJECT,
        "z.ko.xz!/z.ko": FINE,
    }
    assert tree.links == {"l": "a/y.deb", "a/y.deb!/usr/lib/y.so": "a/y.deb!/usr/lib/y.so.1"}


def test_repeated_names_are_numbered(tmp_path: Path) -> None:
    """Equal files count once."""
    files = [FINE, FAULTY, FINE, FINE + b"1", FINE]
    path = written(tmp_path / "x.tar", tars([*(("x", file) for file in files), ("y", FINE), ("x#2", FAULTY + b"1")]))
    found = {name: file.read_bytes() for name, file in opened(path).elves.items()}
    assert found == {"x": FINE, "x#2": FAULTY, "x#3": FINE + b"1", "y": FINE, "x#2#2": FAULTY + b"1"}


def test_links_do_not_leave_their_container(tmp_path: Path) -> None:
    inner = tar({"bin/x": FINE}, {"a": "../bin/x", "b": "/bin/x", "bin/c": "x"})
    path = written(tmp_path / "x.tar", tar({"d/y.tar": inner}, {}))
    assert opened(path).links == {"d/y.tar!/b": "d/y.tar!/bin/x", "d/y.tar!/bin/c": "d/y.tar!/bin/x"}


def test_no_copy_of_a_container_is_left(tmp_path: Path) -> None:
    path = written(tmp_path / "x.tar", tar({"notes.txt": zipped({"x": FINE, "y": gzip.compress(FAULTY)}, {})}, {}))
    tree = opened(path)
    assert sorted((tmp_path / "scratch").rglob("[0-9]")) == sorted({tmp_path / "scratch/0", *tree.elves.values()})


# ---- what is not judged


def hidden(data: bytes) -> bytes:
    """A zip archive with a member that its list does not name."""
    head = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, len(data), len(data), 1, 0) + b"h" + data
    inner = bytearray(zips([("x", FINE)]))
    at = inner.rindex(b"PK\1\2")
    inner[at:at] = head
    end = inner.rindex(b"PK\5\6")
    struct.pack_into("<I", inner, end + 16, at + len(head))
    return bytes(inner)


def encrypted() -> bytes:
    data = bytearray(zips([("x", FINE)]))
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(mark) + flags] |= 1
    return bytes(data)


def other_size() -> bytes:
    """A zip archive with a member that is smaller by its own words than by the list."""
    data = bytearray(zips([("x", FINE)], method=zipfile.ZIP_STORED))
    struct.pack_into("<II", data, 18, 100, 100)
    return bytes(data)


def with_comment() -> bytes:
    """A zip archive with a member, and a list of it, in the comment."""
    return b"".join([zips([("x", FINE)])[:-2], struct.pack("<H", len(more := zips([("y", FAULTY)])[:-22])), more])


def other_end() -> bytes:
    """A zip archive with a second list in the comment of the first one, which only programs see that know no zip64."""
    fine, faulty = zips([("x", FINE)]), zips([("y", FAULTY)])
    size, at = struct.unpack_from("<II", fine, len(fine) - 10)
    size2, at2 = struct.unpack_from("<II", faulty, len(faulty) - 10)
    hidden_at = at + size
    listed, listed2 = bytearray(fine[at : at + size]), bytearray(faulty[at2 : at2 + size2])
    struct.pack_into("<H", listed, 32, at2 + size2)
    struct.pack_into("<I", listed2, 42, hidden_at)
    body = fine[:at] + listed + faulty[:at2] + listed2
    end64 = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 1, len(body) - at, at)
    locator = b"PK\6\7" + struct.pack("<IQI", 0, len(body), 1)
    return body + end64 + locator + b"PK\5\6" + struct.pack("<4H2IH", 0, 0, 1, 1, size2, hidden_at + at2, 0)


def sparse(**settings: object) -> bytes:
    """A tar archive with a sparse member, of which GNU tar takes the first block for a map."""
    number = f"1\n0\n{len(FAULTY)}\n".encode().ljust(512, b"\0")
    return pax(**settings, GNU__sparse__realsize=len(FAULTY)) + tars([("x", number + FAULTY)])


def partitioned() -> bytes:
    table = b"\x80\1\1\0\x83\xfe\xff\xff\x3f\0\0\0\0\x10\0\0"
    return image(4096, (0, b"\xeb"), (446, table), (510, b"\x55\xaa"))


def image(size: int, *marks: tuple[int, bytes]) -> bytes:
    out = bytearray(size)
    for at, mark in marks:
        out[at : at + len(mark)] = mark
    return bytes(out)


UEFI = image(4096, (0, b"MZ"), (60, b"\x80"), (0x80, b"PE\0\0"), (0x80 + 92, b"\x0a"))
NOT_JUDGED: dict[str, tuple[bytes, str]] = {
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(99), "7z"),
    "RAR": (b"Rar!\x1a\x07\1\0" + bytes(99), "RAR"),
    "squashfs": (b"hsqs" + bytes(99), "squashfs"),
    "disc": (image(0x9000, (0x8000, b"\1CD001\1")), "image of a disc"),
    "disc that boots": (image(0x9000, (0, b"\xeb"), (510, b"\x55\xaa"), (0x8000, b"\1CD001\1")), "image of a disc"),
    "ext": (image(4096, (1080, b"\x53\xef"), (1100, b"\1")), "ext file system"),
    "EROFS": (image(4096, (1024, b"\xe2\xe1\xf5\xe0")), "EROFS"),
    "lz4": (b"\x04\x22\x4d\x18" + bytes(99), "lz4"),
    "compress": (b"\x1f\x9d\x90" + bytes(99), "compress"),
    "thin library": (b"!<thin>\n" + ar([("x.o/", b"")])[8:], "thin"),
    "bitcode": (b"BC\xc0\xde" + bytes(99), "LLVM bitcode"),
    "disk": (image(4096, (512, b"EFI PART")), "image of a disk"),
    "folder of a zip with content": (zips([("x/", FINE)]), "is a folder and has content"),
    "kernel": (image(4096, (510, b"\x55\xaa"), (514, b"HdrS")), "kernel of Linux"),
    "UEFI": (UEFI, "UEFI"),
    "squashfs behind a program": (FINE + b"hsqs" + bytes(99), "squashfs"),
    "packed program": (FINE[:400] + b"UPX!" + FINE[404:], "packed by UPX"),
    "packed program in gzip": (gzip.compress(FINE[:400] + b"UPX!" + FINE[404:]), "packed by UPX"),
    "many headers": (ef.make(ef.Elf(text=ef.RET, extra=FINE[:24] * 300)), "look like programs"),
    "many payloads": (b"#!/bin/sh\n" + b"\n070707-" * 100 + b"\0", "begin of an archive"),
    "32-bit program": (gzip.compress(ef.make(ef.Elf(machine=3))), "32-bit code"),
    "cut tar": (tar({"x": FINE}, {})[:6000], "truncated"),
    "cut gzip": (gzip.compress(FINE * 9)[:200], "too early|ended before"),
    "damaged library": (ar([("x.o/", FINE)]) + b"?" * 60, "damaged"),
    "cut library": (ar([("x.o/", FINE)])[:900], "missing"),
    "zip by bzip2": (zips([("x", FINE)], method=zipfile.ZIP_BZIP2), "method 12"),
    "encrypted zip": (encrypted(), "encrypted"),
    "member that no list names": (hidden(FAULTY), "does not name"),
    "member of another size": (other_size(), "something else of itself"),
    "sparse member": (tars([("x", b"")], kind=tarfile.GNUTYPE_SPARSE), "sparse"),
    "folder with content": (tars([("x", FINE)], kind=tarfile.DIRTYPE), "no file and has a size|damaged"),
    "link with content": (tars([("x", tars([("y", b"")]))], kind=tarfile.LNKTYPE), "no file and has a size"),
    "member that leaves": (tar({"../x": FINE}, {}), "leaves it"),
    "nine archives": (nest(FINE, 9), "in 8 archives"),
    "cpio behind gzip": (gzip.compress(cpio({"x": FINE})) + cpio({"y": FAULTY}), "Not a gzipped file"),
    "garbage behind bzip2": (bz2.compress(b"text") + FAULTY, "Invalid data|corrupt"),
    "two lists of a zip": (other_end(), "behind the archive's list"),
    "comment of a zip": (with_comment(), "behind the archive's list"),
    "sparse member of an unknown version": (sparse(GNU__sparse__major=1, GNU__sparse__minor=5), "sparse"),
    "sparse member of the next version": (sparse(GNU__sparse__major=2, GNU__sparse__minor=0), "sparse"),
    "sparse member with digits": (sparse(GNU__sparse__major="01", GNU__sparse__minor="00"), "sparse"),
    "sparse member of version 0.1": (sparse(GNU__sparse__map=f"0,{len(FAULTY)}"), "sparse"),
    "old zstd": (b"\x27\xb5\x2f\xfd" + bytes(range(99)), "old version of zstd"),
    "lha": (b"\x24\x5f-lh5-" + bytes(99), "lha"),
    "ACE": (bytes(7) + b"**ACE**" + bytes(99), "ACE"),
    "zpaq": (b"zPQ\2\1" + bytes(99), "zpaq"),
    "old lzip": (b"LZIP\0" + bytes(99), "lzip"),
    "snappy": (b"\xff\x06\0\0sNaPpY" + bytes(99), "snappy"),
    "zchunk": (b"\0ZCK1" + bytes(99), "zchunk"),
    "VDI": (b"<<< Oracle VM VirtualBox Disk Image >>>\n" + bytes(99), "VDI"),
    "VHDX": (b"vhdxfile" + bytes(99), "VHDX"),
    "FAT": (image(4096, (54, b"FAT16   "), (510, b"\x55\xaa")), "FAT"),
    "F2FS": (image(4096, (1024, b"\x10\x20\xf5\xf2")), "F2FS"),
    "Btrfs": (image(0x11000, (0x10040, b"_BHRfS_M")), "Btrfs"),
    "UDF": (image(0x9000, (0x8001, b"BEA01")), "image of a disc"),
    "JFFS2": (b"\x85\x19\1\xe0" + bytes(99), "JFFS2"),
    "UBI": (b"UBI#\1" + bytes(99), "UBI"),
    "partitions": (partitioned(), "image of a disk"),
    "firmware": (image(4096, (40, b"_FVH")), "firmware"),
    "APE": (b"MZqFpD='\n\n" + bytes(99), "APE"),
    "precompiled assembly": (image(4096, (0, b"MZ"), (60, b"\x80"), (0x80, b"PE\0\0\x1d\xfd")), "NET"),
    "object file of Go": (ar([("__.PKGDEF", b"go object linux amd64 go1.19\n")]), "object file of Go"),
    "script and lz4": (b"#!/bin/sh\nexit\n\x04\x22\x4d\x18" + bytes(99), "lz4"),
    "script and squashfs": (b"#!/bin/sh\nexit\nhsqs\7\0\0\0" + bytes(99), "squashfs"),
    "script and 7z": (b"#!/bin/sh\nexit\n7z\xbc\xaf\x27\x1c" + bytes(99), "7z"),
    "unknown things behind a program": (FINE + b"KAY\x28\xb5\x2f\xfd" + bytes(range(99)), "no known kind"),
    "deflate behind a program": (FINE + zlib.compress(FAULTY) + b"MEI\x0c\x0b\x0a\x0b\x0e", "no known kind"),
    "things behind a program in gzip": (gzip.compress(FINE + b"0" * 9000), "no known kind"),
    "no signature behind a program": (FINE + b"\x30" * 9000 + b"~Module signature appended~\n", "no known kind"),
    "garbage behind gzip": (gzip.compress(tar({"x": FINE}, {})) + b"garbage", "cannot be unpacked|Not a gzipped"),
}


@pytest.mark.parametrize("name", NOT_JUDGED)
def test_what_cannot_be_judged_is_named(tmp_path: Path, name: str) -> None:
    """It is no violation, and all the rest is judged."""
    data, why = NOT_JUDGED[name]
    path = written(tmp_path / "x.tar", tar({"odd": data, "bin/fine": FINE}, {}))
    tree = opened(path)
    assert "bin/fine" in tree.elves
    assert len(tree.not_judged) >= 1
    assert all(left.where.startswith("odd") for left in tree.not_judged)
    assert any(part in " ".join(left.why for left in tree.not_judged) for part in why.split("|")), tree.not_judged
    assert verdict(path).passed


PLAIN: dict[str, bytes] = {
    "text": b"some text\n" * 500,
    "empty": b"",
    "zeros": bytes(100_000),
    "script": b"#!/bin/sh\necho ustar\nexit 0\n" * 200,
    "program of Windows": image(4096, (0, b"MZ"), (60, b"\x80"), (0x80, b"PE\0\0"), (0x80 + 92, b"\3")),
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20,
    "gzip of text": gzip.compress(b"a page of a manual\n" * 99),
    "signed module": FINE + b"\0" * 700 + b"~Module signature appended~\n",
    "module with a signature": FINE + b"\x30\x82" + bytes(700) + b"~Module signature appended~\n",
    "marks of programs": b"\4" + (b"\x7fELF" + bytes(99)) * 99 + b"PK\3\4" * 9,
    "script about archives": b"#!/bin/sh\n# \x1b[1mhsqs BZh9 ustar\nhsqs\n!<arch> PK\n" * 99,
    "picture with marks": b"\x89PNG\r\n\x1a\n" + b"\n\x5d\0\0\x80\0" + b"\xff" * 8 + bytes(99) + b"BZh91AY&SY" * 99,
    "code of Python": b"\xa7\r\r\n" + bytes(12) + b"\x28\xb5\x2f\xfd" * 99,
    "document": b"%PDF-1.5\n%\xe2\xe3\xcf\xd3\n" + bytes(range(256)) * 99,
    "symbol table": ar([("/", b"\0\0\0\1\0\0\0\x44x\0"), ("//", b"a-long-name.o/\n"), ("/0", OBJECT)]),
    "small numbers": b"\1\0\x10\0\0" + bytes(900),
    "zip of text": zipped({"a": b"text"}, {"l": "a"}),
    "empty zip": zips([]),
    "tar with padding": tar({"a": b"text"}, {}) + bytes(10240),
    "cpio with padding": cpio({"a": b"text"}) + bytes(512),
    "sample of a boot sector": image(512, (510, b"\x55\xaa")),
    "eight archives": nest(b"text", 7),
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_holds_no_code_is_not_named(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "x.tar", tar({"odd": PLAIN[name], "bin/fine": FINE}, {}))
    tree = opened(path)
    assert tree.not_judged == ()
    assert verdict(path).passed


def test_what_needs_a_program_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("pikaforge.host.streams.importlib.import_module", absent)
    monkeypatch.setattr(process, "find", lambda _name: None)
    data = b"\x28\xb5\x2f\xfd" + bytes(20)
    tree = opened(written(tmp_path / "x.tar", tar({"odd": data, "bin/fine": FINE}, {})))
    assert set(tree.elves) == {"bin/fine"}
    [left] = tree.not_judged
    assert (left.where, "compressed by zstd" in left.why) == ("odd", True)


def test_a_file_that_cannot_be_opened_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(AuditError) as caught:
        opened(written(tmp_path / "x", b"hsqs" + bytes(99)))
    assert "squashfs" in caught.value.hint


# ---- bounds


def many(depth: int) -> bytes:
    """A zip archive with many members, each of which has as many."""
    data = bytes(1000)
    for _ in range(depth):
        data = zips((f"{number}.zip", data) for number in range(10))
    return data


@pytest.mark.parametrize(
    ("bound", "value", "why"),
    [
        ("CONTENTS_LIMIT", 50, "more than 50 members"),
        ("SECONDS", -1, "takes more than -1 s"),
        ("NESTED_LIMIT", 2, "in 2 archives"),
    ],
)
def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: int, why: str) -> None:
    monkeypatch.setattr(containers, bound, value)
    tree = opened(written(tmp_path / "x.tar", tar({"odd": many(3), "bin/fine": FINE}, {})))
    assert set(tree.elves) == {"bin/fine"}
    assert tree.not_judged
    assert all(why in left.why for left in tree.not_judged)


def test_all_containers_in_one_share_an_allowance(tmp_path: Path) -> None:
    """40 archives of 3 MiB of zeros each: 64 MiB may be unpacked, or 250 times the size of the whole."""
    block = b"\x7fELF" + bytes(3 << 20)
    inner = tar({f"{number}.gz": gzip.compress(block + bytes([number])) for number in range(40)}, {})
    tree = opened(written(tmp_path / "x.tar.gz", gzip.compress(inner)))
    assert sum(path.stat().st_size for path in tree.elves.values()) <= 64 << 20
    assert len(tree.elves) + len(tree.not_judged) == 40
    assert len(tree.elves) >= 20
    assert all("unpacks to more than" in left.why for left in tree.not_judged)


def test_lines_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "LINES_LIMIT", 3)
    files = {f"{number}.7z": NOT_JUDGED["7z"][0] for number in range(9)}
    tree = opened(written(tmp_path / "x.tar", tar({**files, "bin/fine": FINE}, {})))
    assert [left.where for left in tree.not_judged] == ["0.7z", "1.7z", "2.7z", str(tmp_path / "x.tar")]
    assert tree.not_judged[-1].why == "6 more of this kind"


def test_a_zip_list_is_read_with_its_members(tmp_path: Path) -> None:
    """Members whose sizes follow their bytes, as programs write them that cannot seek."""

    class Pipe(io.BytesIO):
        def tell(self) -> int:
            raise OSError("this is a pipe")

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", FINE)
        archive.writestr("y", b"text")
    tree = opened(written(tmp_path / "x.zip", pipe.getvalue()))
    assert (set(tree.elves), tree.not_judged) == ({"x"}, ())
