"""Tar archives: read as they are, unpacked without trust, measured, and made."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pikaforge.errors import AuditError, HostError
from pikaforge.host.archives import extract, first_file, tar_entries
from pikaforge.host.job import files, folders


def tar_of(*members: tuple[str, bytes, str]) -> bytes:
    """Name, type and link target of each member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = kind, link, 0o755
            tar.addfile(info)
    return buffer.getvalue()


FILE, SYM, HARD, DIR = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE


@pytest.mark.parametrize(
    ("members", "name"),
    [
        ([("../evil", FILE, "")], "../evil"),
        ([("a/../../evil", FILE, "")], "a/../../evil"),
        ([("/evil", FILE, "")], "/evil"),
        ([("link", SYM, "/etc/passwd")], "/etc/passwd"),
        ([("link", SYM, "../evil")], "../evil"),
        ([("a/link", SYM, "../../evil")], "a/../../evil"),
        ([("link", HARD, "../evil")], "../evil"),
        ([("link", HARD, "/etc/passwd")], "/etc/passwd"),
    ],
)
def test_archives_that_would_leave_their_folder(
    tmp_path: Path, members: list[tuple[str, bytes, str]], name: str
) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    with pytest.raises(HostError) as caught:
        extract(tar_of(*members), folder)
    assert caught.value.message == f"the archive has a member outside its folder: {name}"
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_archives_with_devices(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(HostError) as caught:
        extract(tar_of(("thing", kind, "")), tmp_path)
    assert caught.value.message == "the archive has a member that is no file, folder or link: thing"


def test_links_through_links_do_not_leave_the_folder(tmp_path: Path) -> None:
    """`a -> .` and then `b -> a/..`: each is inside by its name, and the second is not."""
    folder = tmp_path / "inner"
    folder.mkdir()
    archive = tar_of(("a", SYM, "."), ("b", SYM, "a/.."), ("b/evil", FILE, ""))
    with pytest.raises((HostError, tarfile.TarError)):
        extract(archive, folder)
    assert not (tmp_path / "evil").exists()


def test_links_inside_are_kept(tmp_path: Path) -> None:
    extract(
        tar_of(("d", DIR, ""), ("d/file", FILE, ""), ("d/sym", SYM, "../d/file"), ("hard", HARD, "d/file")), tmp_path
    )
    assert (tmp_path / "d" / "sym").readlink() == Path("../d/file")
    assert (tmp_path / "hard").samefile(tmp_path / "d" / "file")
    assert (tmp_path / "d" / "file").stat().st_mode & 0o777 == 0o755


def test_archives_that_the_tool_makes() -> None:
    with tarfile.open(fileobj=io.BytesIO(files({"b/c": b"x", "a": b"y"}, executable=["a"]))) as tar:
        found = [(m.name, m.isdir(), oct(m.mode), m.mtime, m.uid) for m in tar]
    assert found == [("a", False, "0o755", 0, 0), ("b", True, "0o755", 0, 0), ("b/c", False, "0o644", 0, 0)]
    with tarfile.open(fileobj=io.BytesIO(folders(["/forge", "/forge/git/0"]))) as tar:
        assert tar.getnames() == ["forge", "forge/git", "forge/git/0"]
    assert files({"a": b"1", "b": b"2"}) == files({"b": b"2", "a": b"1"})


# ---- members


def mixed() -> bytes:
    """A file, and links to it by either way; a folder and a device."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, link in (
            ("./d", DIR, ""),
            ("./d/file", FILE, ""),
            ("./hard", HARD, "./d/file"),
            ("./sym", SYM, "d/file"),
            ("./loose", SYM, "none"),
            ("./thing", tarfile.CHRTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode, info.mtime = kind, link, 0o640, 7
            info.size = 7 if kind == FILE else 0
            tar.addfile(info, io.BytesIO(b"content"))
    return buffer.getvalue()


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("on_disk", [True, False])
def test_members_are_read_as_they_are(tmp_path: Path, compress: Callable[[bytes], bytes], on_disk: bool) -> None:
    data = compress(mixed())
    (tmp_path / "a").write_bytes(data)
    found = {}
    for entry in tar_entries(tmp_path / "a" if on_disk else data):
        content = entry.read() if entry.kind in ("file", "hardlink") else None
        found[entry.name] = (entry.kind, entry.target, entry.size, content)
        assert (entry.mode, entry.modified) == (0o640, 7)
    assert found == {
        "./d": ("folder", "", 0, None),
        "./d/file": ("file", "", 7, b"content"),
        "./hard": ("hardlink", "./d/file", 0, b"content"),
        "./sym": ("symlink", "d/file", 0, None),
        "./loose": ("symlink", "none", 0, None),
        "./thing": ("other", "", 0, None),
    }


def test_what_has_no_content_says_so() -> None:
    for entry in tar_entries(mixed(), where="here"):
        if entry.name in ("./d", "./loose", "./thing"):
            with pytest.raises(AuditError, match=r"is no file$") as caught:
                entry.read()
            assert caught.value.where == "here"
        elif entry.name == "./sym":
            assert entry.read(3) == b"con"


@pytest.mark.parametrize(
    "data", [b"", b"no archive at all" * 100, gzip.compress(mixed())[:100]], ids=["empty", "text", "cut"]
)
def test_what_is_no_archive_is_an_error_of_ours(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(AuditError) as caught:
        list(tar_entries(tmp_path / "a"))
    assert caught.value.where == str(tmp_path / "a")
    with pytest.raises(AuditError):
        list(tar_entries(tmp_path / "none"))


def test_content_that_is_cut_is_an_error_of_ours() -> None:
    data = files({"a": bytes(5000)})[:3000]
    with pytest.raises(AuditError, match="truncated or corrupt"):
        for entry in tar_entries(data):
            entry.read()


# ---- one file out of a stream


def blocks(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("size", [1, 511, 512, 100_000])
def test_the_file_of_a_stream(size: int) -> None:
    with first_file(blocks(files({"a": b"x" * 20_000}), size)) as content:
        assert content is not None
        assert content.read() == b"x" * 20_000


def test_a_stream_that_begins_with_no_file() -> None:
    for archive in (folders(["a"]), tar_of(("a", SYM, "b"))):
        with first_file(blocks(archive, 512)) as content:
            assert content is None
