"""host/process.py with real programs: what they print, how they end, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from limits import within

from pikaforge.errors import HostError
from pikaforge.host import process
from pikaforge.host.run_id import RunId

FAMILY = "sleep 600 & echo $! >child; sleep 600 & echo $! >>child; wait"
"""A program with two children, whose ids it writes down."""


@pytest.fixture(autouse=True)
def not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """`end_all` is for good; so each test has its own."""
    monkeypatch.setattr(process, "_ended", threading.Event())


def _wait_for(path: Path, lines: int) -> list[int]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if path.is_file() and len(found := path.read_text().split()) == lines:
            return [int(word) for word in found]
        time.sleep(0.01)
    raise AssertionError(f"{path} was never written")


def _gone(pid: int) -> bool:
    """Whether a process has ended; a zombie that nobody waits for counts as ended."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.01)
    return False


# ---- run


def test_output_status_and_errors_are_kept() -> None:
    done = process.run(["sh", "-c", "printf 'gr\\303\\274\\377'; echo bad >&2; exit 3"])
    assert (done.status, done.stdout, done.stderr) == (3, b"gr\xc3\xbc\xff", b"bad\n")
    assert (done.text(), done.errors()) == ("grü\ufffd", "bad\n")
    assert done.argv[:2] == ("sh", "-c")


def test_death_by_a_signal_is_a_negative_status() -> None:
    assert process.run(["sh", "-c", "kill -SEGV $$"]).status == -signal.SIGSEGV


@pytest.mark.parametrize("said", ["", "half", "whole\\n"])
def test_a_program_that_was_killed_has_said_so(said: str) -> None:
    done = process.run(["sh", "-c", f"printf '{said}' >&2; kill -KILL $$"])
    begin = said.replace("\\n", "").strip()
    assert done.errors().splitlines() == [*filter(None, [begin]), "sh was killed by SIGKILL"]


def test_input_folder_and_environment(tmp_path: Path) -> None:
    done = process.run(["sh", "-c", "cat; pwd; echo $A$HOME"], cwd=tmp_path, env={"A": "x"}, stdin=b"in\n")
    assert done.text() == f"in\n{tmp_path}\nx\n"


def test_without_input_there_is_none() -> None:
    assert process.run(["cat"], timeout=20).stdout == b""


def test_the_language_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("LANGUAGE", "de")
    monkeypatch.setenv("MINE", "kept")
    assert process.run(["sh", "-c", "echo $LC_ALL $LANGUAGE $MINE"]).text() == "C.UTF-8 C kept\n"


def test_no_shell_reads_the_arguments() -> None:
    assert process.run(["printf", "%s|", "a b", "$HOME", "*", "'"]).text() == "a b|$HOME|*|'|"


def test_much_output_does_not_block() -> None:
    done = process.run(["sh", "-c", "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2"], timeout=60)
    assert (len(done.stdout), len(done.stderr)) == (3_000_000, 3_000_000)


def test_a_program_that_reads_none_of_its_input() -> None:
    assert process.run(["true"], stdin=b"x" * 1_000_000).status == 0


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (["no-program-here"], "cannot run `no-program-here`: No such file or directory", "install it, then run again"),
        (["/"], "cannot run `/`: Permission denied", ""),
    ],
)
def test_a_program_that_cannot_be_started(argv: list[str], message: str, hint: str) -> None:
    with pytest.raises(HostError) as caught:
        process.run(argv)
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_a_timeout_ends_the_whole_group(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        within(30, lambda: process.run(["sh", "-c", FAMILY], cwd=tmp_path, timeout=1))
    assert caught.value.message == "`sh` did not end within 1 s"
    assert all(_gone(pid) for pid in _wait_for(tmp_path / "child", 2))
    assert process._running == set()


def test_end_all_ends_what_runs_with_its_children_and_lets_nothing_start(tmp_path: Path) -> None:
    ends: list[object] = []

    def run(folder: Path) -> None:
        folder.mkdir()
        try:
            ends.append(process.run(["sh", "-c", FAMILY], cwd=folder).status)
        except HostError as error:
            ends.append(error.message)

    threads = [threading.Thread(target=run, args=(tmp_path / str(n),), daemon=True) for n in range(2)]
    for thread in threads:
        thread.start()
    children = [pid for n in range(2) for pid in _wait_for(tmp_path / str(n) / "child", 2)]
    process.end_all()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    # Killed, or told so where it had only just started.
    assert len(ends) == 2 and set(ends) <= {-signal.SIGKILL, "interrupted"}
    assert all(_gone(pid) for pid in children)
    with pytest.raises(HostError, match=r"^interrupted$"):
        process.run(["sleep", "600"])
    assert process._running == set()


def test_a_program_that_left_its_group_by_itself_is_no_error(tmp_path: Path) -> None:
    done = process.run(["sh", "-c", "setsid sh -c 'exec >/dev/null 2>&1; sleep 2' & exit 0"], cwd=tmp_path)
    assert done.status == 0


# ---- find


def test_programs_are_found_also_in_sbin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mine"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert process.find("mine") == str(program)
    assert process.find("ldconfig") in ("/usr/sbin/ldconfig", "/sbin/ldconfig")
    assert process.find("sh") is None
    assert process.require("mine", hint="") == str(program)
    with pytest.raises(HostError) as caught:
        process.require("sh", hint="get it")
    assert (caught.value.message, caught.value.hint) == ("the program `sh` is missing on this machine", "get it")


# ---- child


def test_a_child_is_ended_with_its_group_when_the_block_is_left(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as output:
        with process.child(["sh", "-c", FAMILY], cwd=tmp_path, env=dict(os.environ), output=output) as child:
            pids = _wait_for(tmp_path / "child", 2)
            assert child.wait(0.01) is None
            assert process.start_time(child.pid) is not None
        assert all(_gone(pid) for pid in [child.pid, *pids])
    child.kill_group()  # a second time is no error


def test_a_child_is_signalled_and_waited_for(tmp_path: Path) -> None:
    script = "trap 'echo got it; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    log = tmp_path / "log"
    with (
        log.open("wb") as output,
        process.child(["sh", "-c", script], cwd=tmp_path, env=dict(os.environ), output=output) as child,
    ):
        deadline = time.monotonic() + 20
        while "ready" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        child.signal(signal.SIGTERM)
        assert child.wait(20) == 7
        child.signal(signal.SIGTERM)  # to one that has ended: nothing
    assert log.read_text() == "ready\ngot it\n"


def test_a_child_that_cannot_be_started(tmp_path: Path) -> None:
    with (
        (tmp_path / "log").open("wb") as output,
        pytest.raises(HostError, match=r"^cannot run `/none`: No such file or directory$"),
        process.child(["/none"], cwd=tmp_path, env={}, output=output),
    ):
        pass


# ---- who made it


def test_the_owner_of_a_process_that_ended_is_gone(tmp_path: Path) -> None:
    me = RunId.current()
    with (tmp_path / "log").open("wb") as output:
        with process.child(["sleep", "600"], cwd=tmp_path, env=dict(os.environ), output=output) as child:
            other = RunId(machine=me.machine, pid=child.pid, started=process.start_time(child.pid) or "")
            assert not other.gone()
        assert other.gone()
    assert process.start_time(other.pid) is None
