"""Full disks have one kind of error, whoever meets them: it names the folder."""

from __future__ import annotations

import errno
import os
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path

import pytest

from pikaforge.errors import AuditError, FullDiskError, HostError
from pikaforge.host import disk, process
from pikaforge.host.archives import archive_errors
from pikaforge.host.disk import full_disk, full_disk_errors, has_no_room, said_in
from pikaforge.host.leftovers import temporary_folder
from pikaforge.host.store import Store

FULL = Path("/dev/full")
"""A file that takes nothing (full(4)); the error of a write has no file's name."""


def no_space(path: str | None = None) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def write(_: Path) -> None:
    with FULL.open("w") as stream:
        stream.write("x")


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Decide which folders have no room."""

    def set_full(*folders: Path) -> None:
        monkeypatch.setattr(disk, "has_no_room", lambda folder: folder in folders)

    return set_full


# ---- which folder it is


def test_the_error_of_a_file_names_its_folder(tmp_path: Path) -> None:
    error = full_disk(no_space(str(tmp_path / "file")), Path("/elsewhere"))
    assert (error.message, error.where) == (f"no space left in {tmp_path}", str(tmp_path / "file"))
    assert error.exit_code == 3
    assert full_disk(no_space(str(tmp_path))).message == f"no space left in {tmp_path}"


def test_otherwise_it_is_the_folder_that_has_no_room(rooms: Callable[..., None]) -> None:
    out, logs, temporary = Path("/o"), Path("/l"), Path(tempfile.gettempdir())
    for full, expected in ((out, out), (logs, logs), (temporary, temporary)):
        rooms(full)
        assert full_disk(no_space(), out, logs).message == f"no space left in {expected}"
    rooms()
    assert full_disk(no_space(), out, logs).message == "no space left in /o", "it has room again"
    assert full_disk(no_space()).message == "no space left on the disk", "nothing is guessed"


def test_a_quota_is_no_disk() -> None:
    error = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/out/file")
    assert full_disk(error).message == "no space left in /out: the disk quota is used up"


def test_a_file_system_without_room_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*, frsize: int = 4096, blocks: int = 100, bfree: int = 50_000, files: int = 10, ffree: int = 5) -> bool:
        class Found:
            f_frsize, f_blocks, f_bfree, f_bavail, f_files, f_ffree = frsize, blocks, bfree, bfree, files, ffree

        monkeypatch.setattr(os, "statvfs", lambda _: Found)
        return has_no_room(tmp_path)

    assert not answer()
    assert answer(bfree=0)
    assert answer(bfree=255), "less than a MiB"
    assert answer(ffree=0), "no file can be made"
    assert not answer(files=0, ffree=0), "btrfs counts none"
    assert not answer(blocks=0, bfree=0), "/proc has none"
    monkeypatch.undo()
    assert not has_no_room(tmp_path / "absent")


# ---- who meets it


def test_all_who_write_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()

    def in_scratch() -> None:
        with Store(tmp_path / "store").scratch() as folder:
            write(folder)

    def in_temporary_folder() -> None:
        with temporary_folder("test") as folder:
            write(folder)

    for work, folder in ((in_scratch, tmp_path / "store"), (in_temporary_folder, tmp_path / "tmp")):
        with pytest.raises(FullDiskError) as caught:
            work()
        assert caught.value.message.startswith(f"no space left in {folder}")
        assert list(folder.iterdir()) == [], "what was begun is removed"


def test_control_other_errors_pass(tmp_path: Path) -> None:
    for error in (PermissionError(errno.EACCES, "x"), HostError("x"), ValueError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, full_disk_errors(tmp_path):
            raise error
        assert caught.value is error


def test_an_archive_that_cannot_be_unpacked_is_not_corrupt() -> None:
    buffer = BytesIO()
    tarfile.open(fileobj=buffer, mode="w").close()
    with pytest.raises(OSError, match="No space"), archive_errors("a.tar"):
        raise no_space()
    with pytest.raises(AuditError, match="cannot be read"), archive_errors("a.tar"):
        raise PermissionError(errno.EACCES, "Permission denied")


# ---- what programs say


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fatal: write error: No space left on device", True),
        ("tar: a: Cannot write: Disk quota exceeded", True),
        ("write /var/lib/docker/x: no space left on device", True),
        ("remote: fatal: write error: No space left on device", False),
        ("fatal: early EOF", False),
    ],
)
def test_words_of_programs(line: str, said: bool) -> None:
    assert said_in(["first", line, "last"]) == (line if said else "")


def test_a_program_that_fails_on_a_full_disk(monkeypatch: pytest.MonkeyPatch, rooms: Callable[..., None]) -> None:
    class Started:
        returncode = 128

        def communicate(self, *_: object) -> tuple[bytes, bytes]:
            return b"", self.errors.encode()

        errors = "fatal: write error: No space left on device\n"

    monkeypatch.setattr(process, "_started", lambda *_: nullcontext(Started()))
    monkeypatch.setattr(process, "has_no_room", lambda folder: folder == Path("/o/git"))
    with pytest.raises(FullDiskError) as caught:
        process.run(["/usr/bin/git", "--git-dir=/o/git", "fetch"])
    said = "fatal: write error: No space left on device"
    assert caught.value.message == f"no space left in /o/git for `git`: {said}"
    Started.errors = "fatal: not a repository\n"
    assert process.run(["git", "x"]).status == 128
    Started.errors, Started.returncode = "warning: No space left on device\n", 0
    assert process.run(["git", "x"]).status == 0, "it has done without"
