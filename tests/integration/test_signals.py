"""Signals to nox and to the tool: the whole tree ends, with status 128 + N, whenever the signal comes."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MARK = "PIKAFORGE_TEST_MARK"
SOON = 30.0
TOOL = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
from pikaforge.cli import call, main
from pikaforge.host import process
def verb(context):
    print("begun", flush=True)
    process.run(["sh", "-c", "sleep 600 & sleep 600"])
    return 0
call._verb = lambda name: verb
sys.exit(main.main(["matrix"]))
"""
AT_THE_START = """
class Popen(process.subprocess.Popen):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        import os
        os.kill(os.getpid(), signal.SIGTERM)  # before the caller knows the program
process.subprocess.Popen = Popen
"""
NOX = """
import importlib.util, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
spec = importlib.util.spec_from_file_location("noxfile", {noxfile!r})
noxfile = importlib.util.module_from_spec(spec)
spec.loader.exec_module(noxfile)
sys.exit(noxfile.ended({argv!r}, group={group}))
"""
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def argv(tmp_path: Path) -> Callable[..., list[str]]:
    """A program: the tool at work, alone or called by nox; or a program that nox makes an environment with."""

    def of(who: str) -> list[str]:
        (tmp_path / "tool.py").write_text(TOOL)
        called = [sys.executable, str(tmp_path / "tool.py")]
        if who == "tool":
            return called
        if who == "maker":
            called = ["sh", "-c", "echo begun; sleep 600 & sleep 600"]
        text = NOX.format(noxfile=str(ROOT / "noxfile.py"), argv=called, group=who == "maker")
        (tmp_path / "driver.py").write_text(text)
        return [sys.executable, str(tmp_path / "driver.py")]

    return of


def environment(mark: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "build"), MARK: str(mark)}


def left(mark: Path) -> list[str]:
    """Command lines of what still runs; what was ended a moment ago has two seconds to go."""
    end = time.monotonic() + 2
    while True:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={mark}\0".encode() in (folder / "environ").read_bytes() + b"\0":
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:  # it ended, or is another user's
                continue
        if not any(found) or time.monotonic() > end:
            return list(filter(None, found))
        time.sleep(0.05)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("group", [False, True], ids=["alone", "group"])
@pytest.mark.parametrize("who", ["tool", "nox", "maker"])
def test_the_whole_tree_ends(
    argv: Callable[..., list[str]], tmp_path: Path, who: str, group: bool, number: signal.Signals
) -> None:
    """A service manager's signal reaches the first program alone, one of the terminal all of its group."""
    with subprocess.Popen(
        argv(who), env=environment(tmp_path), start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"begun\n"
        assert len(left(tmp_path)) >= 3, "a test that tells nothing"
        if group:
            os.killpg(running.pid, number)
        else:
            running.send_signal(number)
        _, errors = running.communicate(timeout=SOON)
    assert (running.returncode, b"Traceback" in errors) == (128 + number, False), errors
    assert left(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("delay", [0.0, 0.1, 0.2, 0.4, 0.8])
def test_at_any_moment_of_the_start(
    argv: Callable[..., list[str]], tmp_path: Path, number: signal.Signals, delay: float
) -> None:
    with subprocess.Popen(
        argv("nox"), env=environment(tmp_path), start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        time.sleep(delay)
        running.send_signal(number)
        running.communicate(timeout=SOON)
    # Before Python has read noxfile.py, the kernel ends it, which shells report as 128 + N; then nox ends it.
    assert running.returncode in (128 + number, -number, 1, 130)
    assert left(tmp_path) == []


def start_inside_of(call: str) -> str:
    """The tool, with a signal to itself as soon as it has started a program in this way."""
    text = TOOL.replace('process.run(["sh", "-c", "sleep 600 & sleep 600"])', call)
    return text.replace("call._verb =", AT_THE_START + "call._verb =")


CALLS = {
    "run": 'process.run(["sh", "-c", "sleep 600 & sleep 600"])',
    "child": """
    import os, pathlib
    with process.child(["sleep", "600"], cwd=pathlib.Path("/"), env=os.environ, output=sys.stderr.buffer) as child:
        child.wait()
""",
    "output": """
    with open("/dev/null", "rb") as nothing, process.output(["sleep", "600"], stdin=nothing) as said:
        said.read()
""",
    "bounded": """
    import os, pathlib
    process.bounded(["sleep", "600"], cwd=pathlib.Path("/"), env=os.environ, user=None, timeout=600, limit=1)
""",
}


@pytest.mark.parametrize("way", CALLS)
def test_a_signal_while_a_program_starts(tmp_path: Path, way: str) -> None:
    """It comes when there is a program, and before the tool has taken note of it."""
    (tmp_path / "tool.py").write_text(start_inside_of(CALLS[way]))
    argv = [sys.executable, str(tmp_path / "tool.py")]
    done = subprocess.run(argv, env=environment(tmp_path), capture_output=True, timeout=SOON, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (128 + signal.SIGTERM, False), done.stderr
    assert left(tmp_path) == []


@pytest.mark.parametrize("who", ["tool", "nox"])
def test_the_terminal_goes(argv: Callable[..., list[str]], tmp_path: Path, who: str) -> None:
    command = argv(who)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(command[0], command, environment(tmp_path))  # noqa: S606
    said = b""
    while b"begun" not in said:
        said += os.read(terminal, 1000)
    os.close(terminal)
    end = time.monotonic() + SOON
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        time.sleep(0.05)
    else:
        os.kill(pid, signal.SIGKILL)
        pytest.fail("it goes on without a terminal")
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    assert left(tmp_path) == []


def test_control_a_program_that_ends_by_itself(tmp_path: Path) -> None:
    for status in (0, 3):
        text = NOX.format(noxfile=str(ROOT / "noxfile.py"), argv=["sh", "-c", f"exit {status}"], group=False)
        assert subprocess.run([sys.executable, "-c", text], check=False, timeout=SOON).returncode == status
