"""The host engine by itself: jobs and servers."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from limits import within

from pikaforge.errors import HostError
from pikaforge.host import process
from pikaforge.host.confinement import Bounds, OutputError
from pikaforge.host.job import Input, Job, ServerJob, files
from pikaforge.host.no_container import PASSED_ON, HostEngine
from pikaforge.host.run_id import RunId


@pytest.fixture(autouse=True)
def not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """`end_all` is for good; so each test has its own."""
    monkeypatch.setattr(process, "_ended", threading.Event())


@pytest.fixture
def local(tmp_path: Path) -> HostEngine:
    """Not the container engine of the other tests."""
    return HostEngine(tmp_path / "out" / "work")


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "into"
    folder.mkdir()
    return folder


def _job(tmp_path: Path, script: str, **more: object) -> Job:
    options: dict[str, object] = {
        "label": "compile-x",
        "image": "",
        "argv": ("sh", "guest/job.sh"),
        "env": {},
        "inputs": (Input(folder="guest", archive=files({"job.sh": script.encode()}, executable=["job.sh"])),),
        "log": tmp_path / "log",
    }
    return Job(**{**options, **more})  # type: ignore[arg-type]


def _work(tmp_path: Path) -> list[str]:
    folder = tmp_path / "out" / "work"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


# ---- jobs


def test_a_job_gets_its_inputs_and_leaves_its_outputs(tmp_path: Path, local: HostEngine, into: Path) -> None:
    script = 'cat src/a >out/result; printf "%s" "$PIKAFORGE_ROOT" >out/root; pwd; ls -d out'
    (tmp_path / "a.tar").write_bytes(files({"a": b"content", "deep/er/b": b"x"}))
    job = _job(
        tmp_path,
        script,
        inputs=(*_job(tmp_path, script).inputs, Input(folder="src", archive=tmp_path / "a.tar")),
        outputs=("out/result", "out/root"),
    )
    done = local.run(job, into)
    assert (done.status, done.timed_out) == (0, False)
    assert done.outputs == {"out/result": into / "result", "out/root": into / "root"}
    assert (into / "result").read_text() == "content"
    root = (into / "root").read_text()
    assert root == local.root("compile-x")
    assert (tmp_path / "log").read_text() == f"{root}\nout\n"
    assert _work(tmp_path) == [], "nothing is left"


def test_a_job_sees_little_of_this_process(
    tmp_path: Path, local: HostEngine, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CFLAGS", "CC", "MAKEFLAGS", "http_proxy", "CCACHE_DIR"):
        monkeypatch.setenv(name, "mine")
    local.run(_job(tmp_path, "env", env={"PIKAFORGE_X": "1", "PIKAFORGE_ROOT": "elsewhere"}), into)
    seen = dict(line.split("=", 1) for line in (tmp_path / "log").read_text().splitlines())
    assert set(seen) - {"PWD", "OLDPWD", "SHLVL", "_"} <= {*PASSED_ON, "PIKAFORGE_ROOT", "PIKAFORGE_X"}
    assert PASSED_ON == ("PATH", "HOME", "USER", "TMPDIR", "LD_LIBRARY_PATH")
    assert (seen["PIKAFORGE_X"], seen["PIKAFORGE_ROOT"]) == ("1", local.root("compile-x"))


def test_a_cache_survives_jobs(tmp_path: Path, local: HostEngine, into: Path) -> None:
    local.run(_job(tmp_path, "echo one >$CCACHE_DIR/file", cache="ccache"), into)
    done = local.run(_job(tmp_path, "cat $CCACHE_DIR/file >out/found", cache="ccache", outputs=("out/found",)), into)
    assert (done.outputs["out/found"]).read_text() == "one\n"
    assert (tmp_path / "out" / "ccache" / "ccache" / "file").is_file()
    other = local.run(_job(tmp_path, "ls $CCACHE_DIR >out/found", cache="another", outputs=("out/found",)), into)
    assert (other.outputs["out/found"]).read_text() == ""


@pytest.mark.parametrize(("script", "status"), [("exit 3", 3), ("kill -SEGV $$", 128 + signal.SIGSEGV)])
def test_how_a_job_ended(tmp_path: Path, local: HostEngine, into: Path, script: str, status: int) -> None:
    done = local.run(_job(tmp_path, f"echo x >out/x; {script}", outputs=("out/x",)), into)
    assert (done.status, done.timed_out, dict(done.outputs)) == (status, False, {})
    assert list(into.iterdir()) == []
    assert _work(tmp_path) == []


def test_a_job_that_takes_too_long_is_ended(tmp_path: Path, local: HostEngine, into: Path) -> None:
    done = within(30, lambda: local.run(_job(tmp_path, "echo begun; sleep 600 & sleep 600", timeout=0.5), into))
    assert (done.status, done.timed_out) == (128 + signal.SIGKILL, True)
    assert (tmp_path / "log").read_text() == "begun\n"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("true", "the job left no out/result"),
        ("mkdir out/result", "out/result is not a regular file"),
        ("ln -s /etc/passwd out/result", "out/result is not a regular file"),
        ("mkfifo out/result", "out/result is not a regular file"),
        ("truncate -s 2500M out/result", "out/result is larger than 16 MiB"),
    ],
)
def test_an_output_that_cannot_be_taken(
    tmp_path: Path, local: HostEngine, into: Path, script: str, message: str
) -> None:
    with pytest.raises(OutputError) as caught:
        local.run(_job(tmp_path, script, facts=("out/result",)), into)
    assert (caught.value.message, caught.value.where) == (message, "compile-x")
    assert _work(tmp_path) == []


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("head -c 20000000 /dev/zero >out/large", "a file became larger than 8 MiB (limits.file_mib)"),
        ("yes $(printf '%09000d' 0) | head -c 6000000; sleep 60", "it printed more than 1 MiB (limits.log_mib)"),
    ],
)
def test_what_ends_a_job(tmp_path: Path, local: HostEngine, into: Path, script: str, reason: str) -> None:
    bounds = Bounds(file=8 << 20, log=1 << 20)
    done = local.run(_job(tmp_path, script, bounds=bounds), into)
    assert (done.exceeded, done.timed_out) == (reason, False)
    assert done.status != 0
    assert local.run(_job(tmp_path, "true", bounds=bounds), into).exceeded == ""


def test_what_a_run_left_is_in_nobodys_way(tmp_path: Path, local: HostEngine, into: Path) -> None:
    left = Path(local.root("compile-x")) / "out"
    left.mkdir(parents=True)
    (left / "old").write_text("x")
    assert local.run(_job(tmp_path, "test ! -e out/old"), into).status == 0


def test_abort_ends_jobs_and_lets_none_start(tmp_path: Path, local: HostEngine, into: Path) -> None:
    ends: list[object] = []
    job = _job(tmp_path, "echo begun; sleep 600")

    def run() -> None:
        try:
            ends.append(local.run(job, into).status)
        except HostError as error:  # told before the job was quite there
            ends.append(error.message)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and "begun" not in (job.log.read_text() if job.log.exists() else ""):
        time.sleep(0.01)
    local.abort()
    thread.join(20)
    assert ends in ([128 + signal.SIGKILL], ["interrupted"])
    with pytest.raises(HostError, match=r"^interrupted$"):
        local.run(_job(tmp_path, "true"), into)
    assert _work(tmp_path) == []


def test_sweep_removes_only_what_dead_runs_left(tmp_path: Path, local: HostEngine) -> None:
    me = RunId.current()
    dead = RunId(machine=me.machine, pid=me.pid, started=str(int(me.started) - 1))
    elsewhere = RunId(machine="f" * 16, pid=1, started="1")
    assert local.sweep() == 0
    kept = {
        f"compile-el7-x-none-{dead.text}": False,
        f"compile-el7-x-none-{me.text}": True,
        f"smoke-{elsewhere.text}": True,
        "something": True,
    }
    for name in kept:
        (tmp_path / "out" / "work" / name / "sub").mkdir(parents=True)
    assert local.sweep() == 1
    assert {name: name in _work(tmp_path) for name in kept} == kept


def test_this_machine_will_do(local: HostEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    local.verify()
    assert 1 <= local.cores() <= (os.cpu_count() or 1)

    class Name:
        sysname, machine = "Linux", "aarch64"

    monkeypatch.setattr(os, "uname", Name)
    with pytest.raises(HostError) as caught:
        local.verify()
    assert caught.value.message == "this machine is Linux on aarch64; x86-64 Linux is needed"


# ---- servers

SERVER = """\
import os, signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: os._exit(5))
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("ready", flush=True)
while True:
    client, _ = server.accept()
    client.sendall(os.getcwd().encode())
    client.close()
"""


def test_a_server_is_reached_signalled_and_gone(tmp_path: Path, local: HostEngine) -> None:
    port = local.free_port((0, 1))
    start = f"#!/bin/sh\nexec {sys.executable} server.py {port}\n".encode()
    inputs = (
        Input(folder="tree/bin", archive=files({"server": start}, executable=["server"])),
        Input(folder="", archive=files({"server.py": SERVER.encode()})),
    )
    log = tmp_path / "log"
    job = ServerJob(label="smoke-x", image="", argv=("tree/bin/server",), inputs=inputs, port=port, log=log)
    with local.serve(job) as server:
        deadline = time.monotonic() + 20
        while "ready" not in server.log_text() and time.monotonic() < deadline:
            assert server.wait(0.02) is None
        with socket.create_connection(server.address(), timeout=10) as connection:
            assert connection.recv(1000).decode() == server.root == local.root("smoke-x")
        assert (Path(server.root) / "data").is_dir()
        server.signal("TERM")
        assert server.wait(20) == 5
    assert _work(tmp_path) == []


def test_a_server_is_ended_when_the_block_is_left(tmp_path: Path, local: HostEngine) -> None:
    inputs = (
        Input(folder="tree", archive=files({"run": b"#!/bin/sh\necho $$\nexec sleep 600\n"}, executable=["run"])),
    )
    job = ServerJob(label="s", image="", argv=("tree/run",), inputs=inputs, port=1, log=tmp_path / "log")
    with pytest.raises(RuntimeError, match="boom"), local.serve(job) as server:
        deadline = time.monotonic() + 20
        while not server.log_text().strip() and time.monotonic() < deadline:
            time.sleep(0.01)
        pid = int(server.log_text())
        assert process.start_time(pid) is not None
        raise RuntimeError("boom")
    assert process.start_time(pid) is None
    assert _work(tmp_path) == []


def test_a_free_port_has_free_neighbours(local: HostEngine) -> None:
    for _ in range(5):
        port = local.free_port((0, 1000, 2000))
        for offset in (0, 1000, 2000):
            with socket.socket() as held:
                held.bind(("", port + offset))
