"""The making of a base image: the disk is full, or the run is killed. A stand-in of mmdebstrap does what that does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from own_engine import fill, small_disk

from pikaforge.errors import FullDiskError, UnreachableError
from pikaforge.host import process
from pikaforge.host.leftovers import sweep_temporary
from pikaforge.pipeline.image.bootstrap import root_tar

MIB = 1 << 20
COPIES = """
mkdir "$TMPDIR/mmdebstrap.x"
dd if=/dev/zero of="$TMPDIR/mmdebstrap.x/large" bs=1M count=2 || { rm -rf "$TMPDIR/mmdebstrap.x"; exit 1; }
cp "$TMPDIR/mmdebstrap.x/large" "$4" || { echo "W: creating tarball failed: E: cannot copy: $?" >&2; exit 1; }
rm -rf "$TMPDIR/mmdebstrap.x"
"""
"""It removes its folder before it ends, so that the disk has room again; what it has of the archive stays."""
MOUNTS = """
mkdir "$TMPDIR/proc" "$TMPDIR/own"
mount -t proc proc "$TMPDIR/proc"
mount -t tmpfs tmpfs "$TMPDIR/own"
echo x > "$TMPDIR/own/file"
echo ready > "$4"
exec sleep 600
"""


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a script in the place of mmdebstrap."""
    folder = tmp_path / "programs"
    folder.mkdir()

    def put(script: str) -> None:
        (folder / "mmdebstrap").write_text(f"#!/bin/sh\n{script}", encoding="utf-8")
        (folder / "mmdebstrap").chmod(0o755)

    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return put


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk with room for less than is written."""
    with small_disk("3m") as disk:
        fill(disk, leave=MIB)
        yield disk


def make(target: Path, log: Path) -> None:
    root_tar("suite", target, mirror=None, log=log)


def test_a_full_folder_for_temporary_files(
    standin: Callable[[str], None], full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has room again when mmdebstrap has ended, and is named all the same."""
    standin(COPIES)
    monkeypatch.setenv("TMPDIR", str(full))
    monkeypatch.setattr(tempfile, "tempdir", str(full))
    with pytest.raises(FullDiskError) as caught:
        make(tmp_path / ".new-x" / "base.tar", tmp_path / "log")
    assert caught.value.message == f"no space left in {full} for the base image suite"
    assert f"its files are in {full} (TMPDIR), and its archive in {tmp_path}\n" in caught.value.hint
    assert [path.name for path in full.iterdir()] == [".filler"]


def test_a_full_disk_of_results(standin: Callable[[str], None], full: Path, tmp_path: Path) -> None:
    standin(COPIES)
    (full / ".new-x").mkdir()
    with pytest.raises(FullDiskError) as caught:
        make(full / ".new-x" / "base.tar", tmp_path / "log")
    assert caught.value.message == f"no space left in {full} for the base image suite"
    (tmp_path / "whole").mkdir()
    make(tmp_path / "whole" / "base.tar", tmp_path / "log")
    assert (tmp_path / "whole" / "base.tar").stat().st_size == 2 * MIB


@pytest.mark.parametrize(
    "said",
    [
        "E: You don't have enough free space in /var/cache/apt/archives/.",
        "  installing package gcc-11 needs 40MB on the / filesystem",
        "  installing package gcc-11 needs 12MB more space on the / filesystem",
        "  installing package gcc-11 needs 31 inodes on the /usr filesystem",
        "  At least 67MB more space needed on the / filesystem.",
    ],
)
def test_what_packers_say_before_they_write(said: str, standin: Callable[[str], None], tmp_path: Path) -> None:
    standin(f"cat >&2 <<'END'\n{said}\nEND\nexit 100\n")
    with pytest.raises(FullDiskError):
        make(tmp_path / "base.tar", tmp_path / "log")


def test_another_failure_is_no_full_disk(standin: Callable[[str], None], tmp_path: Path) -> None:
    standin("echo 'E: Unable to locate package space' >&2; exit 100\n")
    with pytest.raises(UnreachableError, match="Unable to locate package space"):
        make(tmp_path / "base.tar", tmp_path / "log")


@pytest.mark.skipif(os.geteuid() != 0, reason="mmdebstrap mounts as root only")
def test_a_run_that_is_killed_leaves_neither_mounts_nor_files(
    standin: Callable[[str], None], tmp_path: Path, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that somebody mounted there are not for the next run to remove."""
    if process.run(["unshare", "--mount", "--", "true"]).status != 0:
        pytest.skip("nothing can be mounted here")
    standin(MOUNTS)
    places, target = tmp_path / "tmp", tmp_path / "base.tar"
    places.mkdir()
    code = "import sys; from integration.test_bootstrap import make, Path; make(*map(Path, sys.argv[1:]))"
    env = {**os.environ, "TMPDIR": str(places), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", code, target, tmp_path / "log"], env=env, start_new_session=True
    ) as running:
        try:
            until(lambda: target.exists() and target.read_text() == "ready\n", "the mounts")
            assert str(places) not in Path("/proc/mounts").read_text(encoding="utf-8")
            (child,) = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
            os.kill(int(child), signal.SIGSTOP)  # it does not see that its parent has ended
        finally:
            running.kill()
    os.kill(int(child), signal.SIGKILL)
    (folder,) = filter(Path.is_dir, places.iterdir())
    assert sorted(path.name for path in folder.iterdir()) == ["own", "proc"]
    monkeypatch.setattr(tempfile, "tempdir", str(places))
    assert sweep_temporary() >= 1
    assert list(places.iterdir()) == []
