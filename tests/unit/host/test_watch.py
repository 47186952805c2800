"""The watch on what this process reads."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from pikaforge.host import watch


def test_files_and_folders_are_noted_whoever_reads_them(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    with watch.watching() as seen:
        (tmp_path / "a").read_text()
        with pytest.raises(FileNotFoundError):
            (tmp_path / "none").read_bytes()
        list(tmp_path.iterdir())
        os.close(os.open(tmp_path / "a", os.O_RDONLY))
        (tmp_path / "written").write_text("b")
    assert seen.files == {str(tmp_path / "a"): True, str(tmp_path / "none"): False}
    assert seen.folders == {str(tmp_path)}
    assert seen.doubts == []
    (tmp_path / "a").read_text()
    assert watch.current() is None, "nobody watches any more"


def test_relative_paths_are_of_the_folder_of_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("a")
    with watch.watching() as seen:
        Path("a").read_text()
        list(Path().iterdir())
        sys.audit("os.listdir", None)
    assert seen.files == {str(tmp_path / "a"): True}
    assert {os.path.normpath(path) for path in seen.folders} == {str(tmp_path)}


def test_modules_are_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "looked_at_as_module.py").write_text("VALUE = 1")
    monkeypatch.syspath_prepend(tmp_path)
    with watch.watching() as seen:
        import looked_at_as_module  # type: ignore[import-not-found]  # noqa: F401
    assert not [path for path in seen.files if "looked_at" in path]
    assert str(tmp_path) not in seen.folders


@pytest.mark.parametrize(
    ("event", "args"),
    [
        ("subprocess.Popen", ("git", ["git"], None, None)),
        ("os.posix_spawn", ("git", ["git"], {})),
        ("os.system", (b"true",)),
        ("os.exec", ("git", ["git"], None)),
        ("socket.connect", (None, ("192.0.2.1", 80))),
        ("os.chdir", ("/",)),
        ("os.scandir", (5,)),
    ],
)
def test_what_cannot_be_seen_through_is_a_doubt(event: str, args: tuple[object, ...]) -> None:
    with watch.watching() as seen:
        sys.audit(event, *args)
    assert len(seen.doubts) == 1
    with watch.watching() as again, watch.covered("/the/refs", folders=("/the",)):
        sys.audit(event, *args)
    assert again.doubts == []
    assert again.files == {"/the/refs": False}
    assert again.folders == {"/the"}


def test_a_socket_of_this_machine_is_none() -> None:
    with watch.watching() as seen:
        sys.audit("socket.connect", None, "/run/docker.sock")
    assert seen.doubts == []


def test_places_without_lasting_files_are_doubts_unless_they_are_known() -> None:
    with watch.watching() as seen:
        Path("/proc/cpuinfo").read_bytes()
        Path(f"/proc/{os.getpid()}/stat").read_bytes()
        Path("/proc/sys/kernel/random/boot_id").read_bytes()
    assert seen.doubts == []
    with watch.watching() as seen:
        Path("/proc/meminfo").read_bytes()
    assert seen.doubts == ["reads /proc/meminfo"]


def test_temporary_folders_are_no_inputs(tmp_path: Path) -> None:
    with watch.watching() as seen:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        (folder / "a").write_text("a")
        shutil.rmtree(folder)
    assert seen.files == {}
    assert seen.folders == set()
    assert seen.doubts == []


def test_what_only_has_to_be_there_is_noted(tmp_path: Path) -> None:
    watch.note_path(tmp_path / "logs")  # nobody watches
    with watch.watching() as seen:
        watch.note_path(tmp_path / "logs")
        watch.note_path(tmp_path)
    assert seen.files == {str(tmp_path / "logs"): False, str(tmp_path): True}
