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
