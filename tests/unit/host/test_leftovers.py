"""What killed runs leave is removed by the next one; what running ones have, and what is not ours, stays."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from unit.helpers import FakeEngine, make_workspace

from pikaforge.errors import FullDiskError, HostError
from pikaforge.host import disk, ended_runs, leftovers
from pikaforge.host.durable import write_atomically
from pikaforge.host.leftovers import sweep, sweep_temporary, temporary_folder
from pikaforge.host.run_id import RunId


@pytest.fixture(autouse=True)
def tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(leftovers, "SHORT", ())
    monkeypatch.delenv(leftovers.RUNTIME, raising=False)
    return folder


@pytest.fixture
def dead() -> str:
    """A run of this machine that has ended."""
    return replace(RunId.current(), started="1").text


def _left(tmpdir: Path, name: str, run: str) -> Path:
    folder = tmpdir / f"pikaforge-{name}"
    folder.mkdir()
    (folder / "key").write_text("secret")
    (tmpdir / f"pikaforge-{name}.run").write_text(run)
    return folder


def test_a_folder_is_private_and_removed_with_its_mark(tmpdir: Path) -> None:
    with temporary_folder("verify") as folder:
        assert folder.parent == tmpdir
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "x").write_text("x")
        assert sweep_temporary() == 0
        assert folder.is_dir()
    assert list(tmpdir.iterdir()) == []


def test_the_next_run_removes_what_a_killed_one_has_left(tmpdir: Path, dead: str) -> None:
    old = _left(tmpdir, "sign-a", dead)
    running = _left(tmpdir, "sign-b", RunId.current().text)
    elsewhere = _left(tmpdir, "sign-c", f"{'0' * 16}-1-1")
    unknown = _left(tmpdir, "sign-d", "x")
    with temporary_folder("verify"):
        assert not old.exists()
    assert not old.with_name(f"{old.name}.run").exists()
    assert all(folder.is_dir() for folder in (running, elsewhere, unknown))


def test_a_folder_with_a_short_path_is_swept_too(
    tmpdir: Path, tmp_path: Path, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = tmp_path / "s"
    short.mkdir()
    monkeypatch.setattr(leftovers, "SHORT", (str(short),))
    old = _left(short, "gnupg-a", dead)
    longest = len(str(short / "pikaforge-gnupg-12345678"))
    with temporary_folder("gnupg", longest=longest) as folder:
        assert folder.parent == short
        assert folder.stat().st_mode & 0o777 == 0o700
        assert not old.exists()
        assert list(tmpdir.iterdir()) == []
    assert list(short.iterdir()) == []
    with (
        pytest.raises(HostError, match="there is no folder for gnupg: paths have more than 10 bytes"),
        temporary_folder("gnupg", longest=10),
    ):
        pass
    assert [*tmpdir.iterdir(), *short.iterdir()] == []


def test_control_a_path_that_is_short_enough_stays_in_tmpdir(tmpdir: Path) -> None:
    with temporary_folder("gnupg", longest=4096) as folder:
        assert folder.parent == tmpdir


def test_links_of_others_lead_nowhere(tmpdir: Path, tmp_path: Path, dead: str) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    (tmpdir / "pikaforge-x").symlink_to(precious)
    (tmpdir / "pikaforge-x.run").write_text(dead)
    (tmp_path / "mark").write_text(dead)
    (tmpdir / "pikaforge-y").mkdir()
    (tmpdir / "pikaforge-y.run").symlink_to(tmp_path / "mark")
    os.mkfifo(tmpdir / "pikaforge-z.run")
    sweep_temporary()
    assert (precious / "file").is_file()
    assert (tmpdir / "pikaforge-y").is_dir()


def test_another_users_are_left_alone(tmpdir: Path, dead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _left(tmpdir, "x", dead)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert sweep_temporary() == 0
    assert folder.is_dir()


def test_no_place_for_temporary_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(HostError, match="cannot make a folder for temporary files in"), temporary_folder("x"):
        pass


def test_samples_in_the_making_are_swept(tmp_path: Path, dead: str) -> None:
    folder = tmp_path / "sample"
    digest = "0123456789abcdef"
    names = {f".{digest}-{dead}", f".new-{dead}-abc_d3f"}
    kept = {digest, f".{digest}-{RunId.current().text}", ".gitignore", f".{digest}-{'0' * 16}-1-1", f"{digest}-{dead}"}
    for name in names | kept:
        (folder / name).mkdir(parents=True)
    assert sweep(folder) == len(names)
    assert {path.name for path in folder.iterdir()} == kept
    assert sweep(tmp_path / "absent") == 0


@pytest.mark.parametrize("name", ["report.json", "x" * 255, "ü" * 127], ids=["short", "long", "wide"])
def test_a_file_in_the_making_is_swept_and_no_other(
    tmp_path: Path, dead: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A process that is killed before the rename leaves the file under its temporary name."""

    def killed_here(*_: object) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "dist"
    with monkeypatch.context() as killed:
        killed.setattr(Path, "replace", killed_here)
        killed.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(folder / name, "half")
    (left,) = folder.iterdir()
    assert sweep(folder) == 0, "this run goes on"
    text = RunId.current().text
    assert text in left.name
    left.rename(folder / left.name.replace(text, dead))
    (folder / f".{name[:80]}.abcdef12").touch()
    write_atomically(folder / name, "whole")
    assert sweep(folder) == 1
    assert {path.name for path in folder.iterdir()} == {name, f".{name[:80]}.abcdef12"}


def test_a_workspace_sweeps_where_it_writes(tmp_path: Path, dead: str) -> None:
    workspace = make_workspace(tmp_path, FakeEngine())
    places = (workspace.dist, workspace.dist / "el9", workspace.base, workspace.out / "downloads")
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        (place / f".report.json.{dead}-abcdefgh").touch()
        (place / ".kept").touch()
    assert workspace.sweep() == len(places)
    assert all((place / ".kept").is_file() for place in places)


def test_the_mark_has_room_for_a_run_id() -> None:
    assert len(RunId.current().text) <= ended_runs.LIMIT


def test_a_folder_for_temporary_files_that_is_full_is_not_left_for_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python looks for a folder that can be written, and takes /tmp without a word."""
    full = tmp_path / "full"
    monkeypatch.setenv("TMPDIR", str(full))
    monkeypatch.setattr(disk, "has_no_room", lambda folder: folder == full)
    with pytest.raises(FullDiskError) as caught, temporary_folder("verify"):
        pass
    assert caught.value.message == f"no space left in {full}"
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with temporary_folder("verify") as folder:
        assert folder.is_dir()


def test_without_any_folder_for_temporary_files_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    for full, message in (("/tmp", "no space left in /tmp"), ("", "there is no folder for temporary files: ")):
        monkeypatch.setattr(disk, "has_no_room", lambda folder, full=full: str(folder) == full)
        with pytest.raises((HostError, FullDiskError)) as caught, temporary_folder("verify"):
            pass
        assert caught.value.message.startswith(message)
