"""The process of a node: it lives as long as its task, whatever becomes of the worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pikaforge.farm import task
from pikaforge.farm.messages import NodeReply
from pikaforge.host import process

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import signal, sys, threading
from pathlib import Path
from pikaforge.host import lifeline
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
lifeline.follow(0, lease=float(sys.argv[2]), grace=float(sys.argv[3]))
Path(sys.argv[1], "began").write_text(str(__import__("os").getpid()))
while not ended.wait(0.05):
    pass
if sys.argv[4] == "stays":
    threading.Event().wait()
Path(sys.argv[1], "removed").touch()
sys.exit(130)
"""
"""A node's process that runs until nobody wants it."""
HOLDER = """
import subprocess, sys, threading
child = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], stdin=subprocess.PIPE, start_new_session=True)
print(child.pid, flush=True)
while True:
    child.stdin.write(b"."); child.stdin.flush()
    threading.Event().wait(0.1)
"""
"""A worker that keeps such a process alive."""


def _argv(folder: Path, *, lease: float = 30.0, grace: float = 30.0, way: str = "ends") -> list[str]:
    return [sys.executable, "-c", CHILD, str(folder), str(lease), str(grace), way]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "build")}


def test_a_cancelled_task_ends_its_process(tmp_path: Path, until: Callable[..., None]) -> None:
    unwanted = threading.Event()
    replies: list[str | None] = []
    thread = threading.Thread(
        target=lambda: replies.append(task.supervised("{}", unwanted, name="w", argv=lambda _: _argv(tmp_path)))
    )
    thread.start()
    until((tmp_path / "began").exists, "the process runs")
    unwanted.set()
    thread.join(30)
    assert replies == [None]
    assert (tmp_path / "removed").exists(), "it had the time to remove what it has"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_outlives_no_worker(tmp_path: Path, until: Callable[..., None], number: signal.Signals) -> None:
    argv = [sys.executable, "-c", HOLDER, *_argv(tmp_path, lease=2.0)[2:]]
    with subprocess.Popen(argv, env=_environment(), stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        pid = int(worker.stdout.readline())
        until((tmp_path / "began").exists, "the process runs")
        worker.send_signal(number)
        try:
            until((tmp_path / "removed").exists, "it removes what it has")
            until(lambda: process.ended(pid), "it ends")
        finally:
            worker.kill()


def test_a_process_that_does_not_end_is_ended(tmp_path: Path) -> None:
    done = subprocess.run(
        _argv(tmp_path, grace=0.5, way="stays"), env=_environment(), stdin=subprocess.DEVNULL, check=False, timeout=60
    )
    assert done.returncode == 70


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("print('no \\x1b[31mmemory'); raise SystemExit(9)", "no  [31mmemory"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "dmesg"),
    ],
)
def test_a_process_without_a_reply_is_a_failure(program: str, said: str) -> None:
    text = task.supervised("{}", threading.Event(), name="w1", argv=lambda _: [sys.executable, "-c", program])
    assert text is not None
    reply = NodeReply.model_validate_json(text)
    assert reply.status == "failed" and reply.error is not None
    assert "has ended with status" in reply.error.message and "w1" in reply.error.where
    assert said in reply.error.hint and "\x1b" not in reply.error.hint


def test_what_the_process_gets(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; import pikaforge\n"
        "folder = Path(sys.argv[1]); text = (folder / 'request.json').read_text()\n"
        "(folder / 'reply.json').write_text(text + str(os.getpgid(0) == os.getpid()))"
    )
    text = task.supervised(
        "asked ", threading.Event(), name="w", argv=lambda folder: [sys.executable, "-c", program, str(folder)]
    )
    assert text == "asked True", "in a process group of its own"


def test_a_killed_worker_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    start = time.monotonic()
    program = (
        "import sys, threading; from pikaforge.farm import task\n"
        "argv = [sys.executable, '-c', 'import sys; sys.stdin.read()']\n"
        "task.supervised('{}', threading.Event(), name='w', argv=lambda folder: argv)"
    )
    with subprocess.Popen([sys.executable, "-c", program], env={**_environment(), "TMPDIR": str(tmp_path)}) as worker:
        while not list(tmp_path.glob("pikaforge-task-*/request.json")):
            assert time.monotonic() < start + 60
            time.sleep(0.05)
        worker.kill()
    from pikaforge.host.leftovers import sweep_temporary

    monkeypatch.setattr("tempfile.tempdir", None)
    assert sweep_temporary() == 1
    assert list(tmp_path.glob("pikaforge-task-*")) == []
