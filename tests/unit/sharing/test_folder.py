"""A shared store in a folder: others may write there, too."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pikaforge.host import process
from pikaforge.host.run_id import RunId
from pikaforge.sharing.folder import BESIDE, Folder
from pikaforge.sharing.objects import ObjectError

PATH = "files/ab/abc"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


def test_what_is_written_is_read(root: Path, tmp_path: Path) -> None:
    folder = Folder(root)
    assert (folder.read(PATH, limit=10), folder.size(PATH)) == (None, None)
    assert not folder.download(PATH, tmp_path / "copy", size=10)
    (tmp_path / "file").write_bytes(b"content")
    folder.write(PATH, tmp_path / "file")
    assert (folder.read(PATH, limit=7), folder.size(PATH)) == (b"content", 7)
    assert folder.download(PATH, tmp_path / "copy", size=7)
    assert (tmp_path / "copy").read_bytes() == b"content"
    folder.write(PATH, b"other")
    assert folder.read(PATH, limit=7) == b"other"
    assert (root / PATH).stat().st_mode & 0o777 == 0o644
    assert list((root / BESIDE).iterdir()) == []


def test_a_use_is_noted_once_a_day(root: Path) -> None:
    folder = Folder(root)
    folder.write(PATH, b"x")
    for age, noted in ((100, False), (90_000, True)):
        then = time.time() - age
        os.utime(root / PATH, (then, then))
        folder.read(PATH, limit=10)
        assert (abs((root / PATH).stat().st_mtime - then) > 1) is noted


def test_a_part_of_what_is_too_large_is_copied(root: Path, tmp_path: Path) -> None:
    folder = Folder(root)
    folder.write(PATH, b"x" * 5_000_000)
    assert folder.download(PATH, tmp_path / "copy", size=10)
    assert (tmp_path / "copy").stat().st_size == 11
    with pytest.raises(ObjectError, match="larger than 10 bytes") as error:
        folder.read(PATH, limit=10)
    assert not error.value.ends


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_files_are_read(root: Path, tmp_path: Path, kind: str) -> None:
    (root / PATH).parent.mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    match kind:
        case "link":
            (root / PATH).symlink_to(tmp_path / "secret")
        case "pipe":
            os.mkfifo(root / PATH)
        case "folder":
            (root / PATH).mkdir()
    folder = Folder(root)
    with pytest.raises(ObjectError):
        folder.read(PATH, limit=10)
    with pytest.raises(ObjectError):
        folder.download(PATH, tmp_path / "copy", size=10)
    assert folder.size(PATH) is None


def test_what_is_not_mounted_is_no_empty_store(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "absent")
    for ask in (
        lambda: folder.read(PATH, limit=10),
        lambda: folder.size(PATH),
        lambda: folder.download(PATH, tmp_path / "copy", size=1),
        lambda: folder.write(PATH, b"x"),
    ):
        with pytest.raises(ObjectError, match="there is no such folder") as error:
            ask()
        assert error.value.ends
    assert not (tmp_path / "absent").exists()


def test_what_killed_runs_have_left_is_removed_by_the_next_that_writes(root: Path) -> None:
    machine = RunId.current().machine
    dead = root / BESIDE / f".new.{RunId(machine=machine, pid=1, started='1').text}-abc"
    other = root / BESIDE / f".new.{RunId(machine='0' * 16, pid=1, started='1').text}-abc"
    dead.parent.mkdir()
    dead.write_bytes(b"part")
    other.write_bytes(b"part")
    Folder(root).write(PATH, b"x")
    assert sorted((root / BESIDE).iterdir()) == [other], "nothing is known of runs of other machines"


def test_a_write_that_fails_leaves_nothing(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    folder = Folder(root)
    folder.write(PATH, b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ObjectError, match="No space left on device"):
        folder.write(PATH, b"new")
    assert folder.read(PATH, limit=10) == b"old"
    assert list((root / BESIDE).iterdir()) == []


def test_an_interrupted_run_ends_a_copy(root: Path, tmp_path: Path) -> None:
    folder = Folder(root)
    folder.write(PATH, b"x" * 100)
    (tmp_path / "file").write_bytes(b"y" * 100)
    process.end_all()
    with pytest.raises(Exception, match="interrupted"):
        folder.download(PATH, tmp_path / "copy", size=100)
    with pytest.raises(Exception, match="interrupted"):
        folder.write(PATH, tmp_path / "file")
    assert folder.read(PATH, limit=100) == b"x" * 100
    assert list((root / BESIDE).iterdir()) == []


@pytest.mark.parametrize("part", ["files", "files/ab", BESIDE])
def test_no_folder_of_the_store_leads_elsewhere(root: Path, tmp_path: Path, part: str) -> None:
    """Another user has put a link to a folder of this one where a folder of the store would be."""
    mine = tmp_path / "mine"
    (mine / "ab").mkdir(parents=True)
    dead = RunId(machine=RunId.current().machine, pid=1, started="1").text
    kept = [mine / "ab" / "abc", mine / "abc", mine / f".new.{dead}-abc"]
    for path in kept:
        path.write_text("mine")
    (root / part).parent.mkdir(parents=True, exist_ok=True)
    (root / part).symlink_to(mine)
    folder = Folder(root)
    with pytest.raises(ObjectError) as error:
        folder.write(PATH, b"planted")
    assert not error.value.ends
    if part != BESIDE:
        for ask in (lambda: folder.read(PATH, limit=10), lambda: folder.size(PATH)):
            with pytest.raises(ObjectError):
                ask()
    assert [path.read_text() for path in kept] == ["mine"] * 3
    assert sorted(path.name for path in mine.iterdir()) == sorted(["ab", "abc", kept[2].name])


def test_a_file_that_is_exchanged_while_it_is_written_changes_no_other_one(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may write into the folder puts a link in its place: the rights of what it leads to stay."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    sync = os.fsync

    def exchange(descriptor: int) -> None:
        sync(descriptor)
        for path in (root / BESIDE).iterdir():
            path.unlink()
            path.symlink_to(secret)

    monkeypatch.setattr(os, "fsync", exchange)
    folder = Folder(root)
    folder.write(PATH, b"x")
    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.read_text() == "secret"
    with pytest.raises(ObjectError, match="no regular file"):
        folder.read(PATH, limit=10)


def test_who_only_reads_notes_no_use(root: Path, tmp_path: Path) -> None:
    Folder(root).write(PATH, b"x")
    then = time.time() - 90_000
    os.utime(root / PATH, (then, then))
    before = {path: path.lstat().st_mtime_ns for path in [root, *root.rglob("*")]}
    reader = Folder(root, marks=False)
    assert reader.read(PATH, limit=10) == b"x"
    assert reader.download(PATH, tmp_path / "copy", size=1)
    assert {path: path.lstat().st_mtime_ns for path in [root, *root.rglob("*")]} == before


@pytest.mark.parametrize("rights", [0o700, 0o770, 0o2775, 0o1777])
def test_folders_get_the_rights_of_the_store(root: Path, rights: int) -> None:
    """So that who may write into the store may write into all of it, whatever the mask of who was first."""
    root.chmod(rights)
    mask = os.umask(0o077)
    try:
        Folder(root).write(PATH, b"x")
    finally:
        os.umask(mask)
    for folder in (root / "files", root / "files" / "ab", root / BESIDE):
        assert folder.stat().st_mode & 0o7777 == rights, folder


def test_a_file_that_only_another_user_reads_is_one_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def denied(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "abc":
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, mode, dir_fd=dir_fd)

    Folder(root).write(PATH, b"x")
    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(ObjectError, match="Permission denied") as error:
        Folder(root).read(PATH, limit=10)
    assert not error.value.ends, "others may be read"
