"""Logs of two runs and of two configurations are different files."""

from __future__ import annotations

from pathlib import Path

import pytest

from pikaforge.host import logs
from pikaforge.host.logs import RECORD, claimed
from pikaforge.host.run_id import RunId

LABEL, PID = "debian12-sandybridge-none", 4711


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    path = tmp_path / "matrix.yaml"
    path.write_text("")
    return path


def by_another(folder: Path, matrix: Path, monkeypatch: pytest.MonkeyPatch, *, gone: bool) -> Path:
    """A log of another run, which has ended or not."""
    other = RunId(machine="m", pid=PID, started="1")
    with monkeypatch.context() as patch:
        patch.setattr(RunId, "current", classmethod(lambda _cls: other))
        path = claimed(folder, LABEL, "compile", matrix=matrix)
    path.write_text("theirs")
    monkeypatch.setattr(RunId, "gone", lambda self: gone and self == other)
    return path


def test_control_a_run_has_the_log_of_its_node_anew(tmp_path: Path, matrix: Path) -> None:
    path = claimed(tmp_path, LABEL, "compile", matrix=matrix)
    assert path == tmp_path / LABEL / "compile.log"
    path.write_text("old")
    assert claimed(tmp_path, LABEL, "compile", matrix=matrix).read_text() == ""
    assert claimed(tmp_path, LABEL, "smoke", matrix=matrix) == tmp_path / LABEL / "smoke.log"


def test_control_the_log_of_a_run_that_ended_is_taken_over(
    tmp_path: Path, matrix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = by_another(tmp_path, matrix, monkeypatch, gone=True)
    assert claimed(tmp_path, LABEL, "compile", matrix=matrix) == theirs


def test_the_log_of_a_run_that_goes_on_is_left_alone(
    tmp_path: Path, matrix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = by_another(tmp_path, matrix, monkeypatch, gone=False)
    ours = claimed(tmp_path, LABEL, "compile", matrix=matrix)
    ours.write_text("ours")
    assert (theirs.read_text(), ours.read_text()) == ("theirs", "ours")
    assert ours.parent == theirs.parent


def test_another_configuration_has_logs_of_its_own(tmp_path: Path, matrix: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("")
    theirs = claimed(tmp_path, LABEL, "compile", matrix=matrix)
    theirs.write_text("theirs")
    ours = claimed(tmp_path, LABEL, "compile", matrix=other)
    assert ours != theirs
    assert theirs.read_text() == "theirs"
    assert claimed(tmp_path, LABEL, "compile", matrix=other) == ours
    matrix.unlink()
    assert claimed(tmp_path, LABEL, "compile", matrix=other) == theirs, "nobody else has it any more"


def test_logs_of_runs_that_ended_do_not_pile_up(tmp_path: Path, matrix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_another(tmp_path, matrix, monkeypatch, gone=True)
    other = RunId(machine="m", pid=PID, started="1")
    beside = tmp_path / LABEL / f"compile.{PID}.log"
    (tmp_path / LABEL / RECORD.format(beside.name)).write_text(f"{other.text} {matrix}\n")
    beside.write_text("old")
    server = tmp_path / LABEL / "compile-server.log"
    server.write_text("another log")
    claimed(tmp_path, LABEL, "compile", matrix=matrix)
    assert not beside.exists()
    assert server.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [logs.LOCK, LABEL, matrix.name]
