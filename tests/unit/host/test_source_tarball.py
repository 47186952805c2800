"""Source tarballs of others: what of them is streamed into a job, and which of them are refused."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pikaforge.errors import EXIT_HOST, HostError
from pikaforge.host import source_tarball
from pikaforge.host.source_tarball import SourceTarball, without_top

HINT = "is it a release's own tarball?"
THEN = 1_600_000_000
LINK, HARD, FOLDER = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE


def entry(
    name: str, content: str | bytes = b"", *, kind: bytes = tarfile.REGTYPE, **more: Any
) -> tuple[tarfile.TarInfo, bytes]:
    """A member; `more` are attributes of its header."""
    data = content.encode() if isinstance(content, str) else content
    info = tarfile.TarInfo(name)
    info.type, info.mtime, info.mode = kind, THEN, 0o755 if kind == FOLDER else 0o644
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


Entries = Sequence[tuple[tarfile.TarInfo, bytes]]
SOURCE: Entries = (
    entry("demo-1.0", kind=FOLDER),
    entry("demo-1.0/configure", "#!/bin/sh\n", mode=0o755),
    entry("demo-1.0/src", kind=FOLDER),
    entry("demo-1.0/src/main.c", "int main;\n", mtime=THEN + 9),
    entry("demo-1.0/empty", ""),
)
PLAIN = {
    "configure": (0o755, "file", b"#!/bin/sh\n"),
    "src": (0o755, "folder", b""),
    "src/main.c": (0o644, "file", b"int main;\n"),
    "empty": (0o644, "file", b""),
}


def packed(entries: Entries, *, form: int = tarfile.GNU_FORMAT, pax: dict[str, str] | None = None) -> bytes:
    """An uncompressed archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, pax_headers=pax) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


Unpacked = dict[str, tuple[int, str, bytes]]


def content(path: Path) -> Unpacked:
    """Mode, kind and content (of links: where they lead) by name; nobody is their owner, and they have no time."""
    found: Unpacked = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            assert (member.uid, member.gid, member.uname, member.gname, member.mtime) == (0, 0, "", "", 0)
            kind = {FOLDER: "folder", LINK: "link", HARD: "hard link"}.get(member.type, "file")
            stream = tar.extractfile(member) if member.isfile() else None
            assert member.name not in found
            found[member.name] = (member.mode, kind, stream.read() if stream else member.linkname.encode())
    return found


class Bench:
    """Where tarballs are made plain."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "demo-1.0.tar.gz"
        self.into = folder / "src.tar"

    def make(self, data: bytes | Entries) -> SourceTarball:
        self.path.write_bytes(data if isinstance(data, bytes) else packed(data))
        return without_top(self.path, self.into)

    def plain(self, data: bytes | Entries) -> Unpacked:
        made = self.make(data)
        assert made.path == self.into
        return content(made.path)

    def digest(self, data: bytes | Entries) -> str:
        return hashlib.sha256(self.make(data).path.read_bytes()).hexdigest()

    def refusal(self, data: bytes | Entries) -> str:
        """Why it is refused."""
        with pytest.raises(HostError) as caught:
            self.make(data)
        error = caught.value
        assert (error.where, error.hint, error.exit_code) == (str(self.path), HINT, EXIT_HOST)
        start = "demo-1.0.tar.gz is not a source tarball: "
        assert error.message.startswith(start)
        return error.message.removeprefix(start)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# ---- what is taken


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_compression_is_told_by_content(bench: Bench, compress: Callable[[bytes], bytes]) -> None:
    assert bench.plain(compress(packed(SOURCE))) == PLAIN


def under(top: str) -> Entries:
    """The source with another top folder."""
    return [
        entry(info.name.replace("demo-1.0", top, 1), data, kind=info.type, mode=info.mode, mtime=info.mtime)
        for info, data in SOURCE
    ]


@pytest.mark.parametrize("top", ["x", "./demo-1.0", "g++-1.0~rc1", "demo 1.0"])
def test_the_top_folder_has_any_name(bench: Bench, top: str) -> None:
    assert bench.plain(under(top)) == PLAIN


def test_folders_need_no_members_of_their_own(bench: Bench) -> None:
    assert bench.plain([entry("demo/src/a.c", "a")]) == {"src/a.c": (0o644, "file", b"a")}


def test_tar_of_a_folder_by_its_dot_begins_with_the_folder_itself(bench: Bench) -> None:
    assert bench.plain([entry("./", kind=FOLDER), *under("./demo-1.0")]) == PLAIN


def test_a_hard_link_in_an_archive_whose_names_begin_with_a_dot(bench: Bench) -> None:
    link = entry("./demo-1.0/hard", kind=HARD, linkname="./demo-1.0/src/main.c")
    assert bench.plain([*under("./demo-1.0"), link])["hard"] == (0o644, "hard link", b"src/main.c")


def test_a_sparse_file_keeps_its_content(bench: Bench) -> None:
    """As GNU tar -S writes one: its old form, with the map in the header."""
    info, _ = entry("demo-1.0/sparse")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    size, real = 512, 4096
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[124:136] = f"{size:011o}\0".encode()
    header[386:410] = f"{real - size:011o}\0{size:011o}\0".encode()
    header[483:495] = f"{real:011o}\0".encode()
    header[148:156] = f"{sum(header[:148]) + 8 * 0x20 + sum(header[156:]):06o}\0 ".encode()
    data = bytes(header) + b"x" * size + packed(SOURCE)
    assert bench.plain(data)["sparse"] == (0o644, "file", bytes(real - size) + b"x" * size)


def test_files_of_the_first_second(bench: Bench) -> None:
    assert bench.make([entry("demo-1.0/a", "a", mtime=0)]).epoch == 0


def test_the_time_is_that_of_the_newest_file(bench: Bench) -> None:
    assert bench.make(SOURCE).epoch == THEN + 9
    younger = (
        entry("demo-1.0/later", kind=FOLDER, mtime=THEN + 99),
        entry("demo-1.0/link", kind=LINK, linkname="src", mtime=THEN + 99),
    )
    assert bench.make([*SOURCE, *younger]).epoch == THEN + 9, "folders and links have the time of their unpacking"
    fraction = packed([entry("d/a", "a", mtime=THEN + 0.75)], form=tarfile.PAX_FORMAT)
    assert bench.make(fraction).epoch == THEN


def test_the_same_content_gives_the_same_bytes(bench: Bench) -> None:
    wanted = bench.digest(SOURCE)
    others = [
        entry(
            info.name, data, kind=info.type, uid=1000, gid=100, uname="user", gname="users", mtime=THEN - n,
            mode=0o700 if info.mode & 0o100 else 0o600,
        )
        for n, (info, data) in enumerate(SOURCE)
    ]  # fmt: skip
    assert bench.digest(others) == wanted
    assert bench.digest(under("demo-2.0")) == wanted
    assert bench.digest(under("./demo-1.0")) == wanted
    assert bench.digest(gzip.compress(packed(SOURCE))) == wanted
    assert bench.digest(packed(SOURCE, form=tarfile.PAX_FORMAT, pax={"comment": "0" * 40})) == wanted
    assert bench.digest(packed(SOURCE, form=tarfile.USTAR_FORMAT)) == wanted


def test_other_content_gives_other_bytes(bench: Bench) -> None:
    wanted = bench.digest(SOURCE)
    digests = {
        bench.digest([*SOURCE[:3], entry("demo-1.0/src/main.c", "int Main;\n"), *SOURCE[4:]]),
        bench.digest([SOURCE[0], entry("demo-1.0/configure", "#!/bin/sh\n"), *SOURCE[2:]]),
        bench.digest([*SOURCE, entry("demo-1.0/more", "")]),
    }
    assert len(digests | {wanted}) == 4


def test_an_archive_of_github_begins_with_a_header_for_all(bench: Bench) -> None:
    data = packed(SOURCE, form=tarfile.PAX_FORMAT, pax={"comment": "5a1c" * 10})
    assert (data[156:157], b"comment=5a1c" in data[:1024]) == (b"g", True)
    named = b"pax_global_header" + bytes(83) + data[100:148]
    total = sum(named) + 8 * 0x20 + sum(data[156:512])
    as_git_writes_it = named + f"{total:06o}\0 ".encode() + data[156:]
    assert bench.plain(as_git_writes_it) == PLAIN
    assert bench.plain(gzip.compress(as_git_writes_it)) == PLAIN


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_names_beyond_ascii(bench: Bench, form: int) -> None:
    long, short = "/".join(["folder" * 10] * 4), "Grün.c"
    assert bench.plain(packed([entry(f"d/{long}", "x"), entry(f"d/{short}", "y")], form=form)) == {
        long: (0o644, "file", b"x"),
        short: (0o644, "file", b"y"),
    }


def test_links_that_stay_inside(bench: Bench) -> None:
    links = [
        entry("demo-1.0/a", kind=LINK, linkname="src/main.c"),
        entry("demo-1.0/src/up", kind=LINK, linkname="../configure"),
        entry("demo-1.0/src/top", kind=LINK, linkname=".."),
        entry("demo-1.0/dangling", kind=LINK, linkname="not/there"),
        entry("demo-1.0/hard", kind=HARD, linkname="demo-1.0/src/main.c"),
    ]
    assert bench.plain([*SOURCE, *links]) == {
        **PLAIN,
        "a": (0o644, "link", b"src/main.c"),
        "src/up": (0o644, "link", b"../configure"),
        "src/top": (0o644, "link", b".."),
        "dangling": (0o644, "link", b"not/there"),
        "hard": (0o644, "hard link", b"src/main.c"),
    }


# ---- what is refused


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (entry("README", "x"), "README is beside the top folder"),
        (entry("./README", "x"), "./README is beside the top folder"),
        (entry("latest", kind=LINK, linkname="demo-1.0"), "latest is beside the top folder"),
        (entry("other", kind=FOLDER), "there are two top folders, demo-1.0 and other"),
        (entry("other/a.c", "x"), "there are two top folders, demo-1.0 and other"),
        (entry("demo-1.00/a.c", "x"), "there are two top folders, demo-1.0 and demo-1.00"),
        (entry("demo-1.0/../x", "x"), "demo-1.0/../x leads out of demo-1.0/"),
        (entry("demo-1.0/src/../../x", "x"), "demo-1.0/src/../../x leads out of demo-1.0/"),
        (entry("demo-1.0/../demo-1.0/x", "x"), "demo-1.0/../demo-1.0/x leads out of demo-1.0/"),
        (entry("demo-1.0/a", kind=LINK, linkname=".."), "demo-1.0/a leads out of demo-1.0/"),
        (entry("demo-1.0/a", kind=LINK, linkname="../demo-1.0/x"), "demo-1.0/a leads out of demo-1.0/"),
        (entry("demo-1.0/src/a", kind=LINK, linkname="../../etc"), "demo-1.0/src/a leads out of demo-1.0/"),
        (entry("demo-1.0/a", kind=LINK, linkname="/etc/passwd"), "demo-1.0/a leads out of demo-1.0/"),
        (entry("demo-1.0/a", kind=HARD, linkname="/etc/passwd"), "demo-1.0/a leads out of demo-1.0/"),
        (entry("demo-1.0/a", kind=HARD, linkname="demo-1.0/../etc"), "demo-1.0/a leads out of demo-1.0/"),
        (entry("demo-1.0/a", kind=HARD, linkname="../etc"), "demo-1.0/a leads out of demo-1.0/"),
        (entry("demo-1.0/tty", kind=tarfile.CHRTYPE), "demo-1.0/tty is no file, folder or link"),
        (entry("demo-1.0/sda", kind=tarfile.BLKTYPE), "demo-1.0/sda is no file, folder or link"),
        (entry("demo-1.0/pipe", kind=tarfile.FIFOTYPE), "demo-1.0/pipe is no file, folder or link"),
    ],
)
def test_members_that_belong_into_no_source(bench: Bench, bad: tuple[tarfile.TarInfo, bytes], why: str) -> None:
    assert bench.refusal([*SOURCE, bad]) == why


@pytest.mark.parametrize("name", ["demo-1.0//etc/passwd", "demo-1.0///x"])
def test_no_name_in_the_result_is_absolute(bench: Bench, name: str) -> None:
    try:
        names = list(bench.plain([*SOURCE, entry(name, "x")]))
    except HostError:
        return  # that is right, too
    assert not [each for each in names if each.startswith("/")]


def absolute(name: str) -> bytes:
    """An archive with an absolute name; TarInfo itself would not write one."""
    data = bytearray(packed([entry(f"_{name[1:]}", "x")]))
    data[0:1] = b"/"
    data[148:156] = f"{sum(data[:148]) + 8 * 0x20 + sum(data[156:512]):06o}\0 ".encode()
    return bytes(data)


def test_an_absolute_name_is_refused(bench: Bench) -> None:
    assert bench.refusal(absolute("/etc/passwd")) == "/etc/passwd is an absolute path"
    assert bench.refusal([entry("../x", "x")]) == "../x leads out of ../"


@pytest.mark.parametrize("entries", [[], SOURCE[:1], [SOURCE[0], SOURCE[2]]], ids=["nothing", "top", "folders"])
def test_an_archive_without_files(bench: Bench, entries: Entries) -> None:
    assert bench.refusal(entries) == "there is no file in it"


def test_files_without_a_top_folder(bench: Bench) -> None:
    assert bench.refusal([entry("configure", "x"), entry("src/main.c", "x")]) == "configure is beside the top folder"
    assert bench.refusal([entry("src/main.c", "x"), entry("doc/a", "x")]) == "there are two top folders, src and doc"


@pytest.mark.parametrize(
    "data",
    [b"", b"no archive at all", b"<html>404</html>" * 100, gzip.compress(b"a" * 5000)],
    ids=["nothing", "text", "page", "gzip"],
)
def test_what_is_no_archive(bench: Bench, data: bytes) -> None:
    assert bench.refusal(data).startswith("it cannot be read as a tar archive: ")


def test_what_is_not_there(bench: Bench) -> None:
    with pytest.raises(HostError, match=r"cannot be read as a tar archive: .*No such file") as caught:
        without_top(bench.path, bench.into)
    assert caught.value.where == str(bench.path)


NOISE = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(4000))
"""128,000 bytes that no program can make smaller."""
LARGE: Entries = (SOURCE[0], entry("demo-1.0/noise", NOISE))


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("share", [0.5, 0.97])
def test_an_archive_that_was_cut(bench: Bench, compress: Callable[[bytes], bytes], share: float) -> None:
    data = compress(packed(LARGE)[: 3 * 512 + len(NOISE)])
    assert bench.refusal(data[: int(len(data) * share)]).startswith("it cannot be read as a tar archive: ")


@pytest.mark.parametrize(
    "compress",
    [
        gzip.compress,
        bz2.compress,
        lzma.compress,
    ],
)
def test_an_archive_that_is_damaged(bench: Bench, compress: Callable[[bytes], bytes]) -> None:
    data = bytearray(compress(packed([SOURCE[0], entry("demo-1.0/noise", NOISE.hex())])))
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes([0xFF]) * 2000
    assert bench.refusal(bytes(data)).startswith("it cannot be read as a tar archive: ")


@pytest.mark.parametrize(("limit", "good"), [(10 + 10, True), (10 + 10 - 1, False)])
def test_an_archive_that_is_too_large(bench: Bench, monkeypatch: pytest.MonkeyPatch, limit: int, good: bool) -> None:
    monkeypatch.setattr(source_tarball, "LIMIT", limit)
    if good:
        assert bench.plain(SOURCE) == PLAIN
    else:
        assert bench.refusal(SOURCE) == "it unpacks to more than 19 bytes"


def test_a_bomb_is_not_unpacked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_tarball, "LIMIT", 2 << 20)
    bomb = gzip.compress(packed([SOURCE[0], entry("demo-1.0/zeros", bytes(3 << 20))]))
    assert len(bomb) < 10_000
    assert bench.refusal(bomb) == "it unpacks to more than 2 MiB"
    assert bench.into.stat().st_size < 20_000, "it is refused by its header"
