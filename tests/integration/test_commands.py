"""Commands that are run beside a server, or in a place for commands: with bounds, on both engines."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from limits import within

from pikaforge.errors import HostError
from pikaforge.host import process
from pikaforge.host.docker import DockerEngine
from pikaforge.host.job import OUTPUT_LIMIT, TIMED_OUT, Executed, Input, RunningServer, ServerJob, files
from pikaforge.host.no_container import HostEngine
from pikaforge.pipeline.smoke.server import IDLE

if TYPE_CHECKING:
    from integration.conftest import Warm

LONG = 60.0
TOOL = b"""#!/bin/sh
case $1 in
    words) printf '%s|' "$@" ;;
    where) pwd ;;
    both) echo out; echo err >&2; exit 3 ;;
    keep) echo "$2" >"$PWD/data/kept"; cat "$PWD/data/kept" ;;
    die) kill -s ILL $$ ;;
    sleep) exec sleep 1000 ;;
    flood) exec head -c 40000000 /dev/zero ;;
esac
"""


@contextmanager
def held(engine: DockerEngine | HostEngine, image: str, folder: Path) -> Iterator[RunningServer]:
    """A place for commands with one tool."""
    tree = Input(folder="tree", archive=files({"bin/tool": TOOL}, executable=["bin/tool"]))
    job = ServerJob(
        label="test-commands", image=image, argv=IDLE, inputs=(tree,), port=0, log=folder / "log", unprivileged=True
    )
    with engine.serve(job) as server:
        yield server


def check(server: RunningServer) -> None:
    """What holds on both engines."""

    def run(*words: str, timeout: float = LONG) -> Executed:
        return within(LONG * 2, lambda: server.execute(("tree/bin/tool", *words), timeout=timeout))

    assert run("words", "a b", "$HOME", "*") == Executed(status=0, output=b"words|a b|$HOME|*|")
    assert run("where").output.decode().strip() == server.root
    done = run("both")
    assert (done.status, sorted(done.output.split())) == (3, [b"err", b"out"])
    assert run("keep", "something").output == b"something\n"
    assert run("die").status == 128 + signal.SIGILL
    assert run("sleep", timeout=0.5).status == TIMED_OUT
    done = run("flood")
    assert (done.status, len(done.output)) == (0, OUTPUT_LIMIT)
    assert server.wait(0.1) is None, "the place is still there"


@pytest.mark.engine
def test_in_a_container(warm: Warm, tmp_path: Path) -> None:
    with held(DockerEngine(), warm.build_image, tmp_path) as server:
        check(server)
        devices = server.execute(("/bin/cat", "/proc/net/dev"), timeout=LONG).output.decode().splitlines()[2:]
        assert [line.split(":")[0].strip() for line in devices] == ["lo"]
        server.signal("KILL")
        assert server.wait(LONG) is not None
        with pytest.raises(HostError, match="cannot be run in the container"):
            server.execute(("tree/bin/tool", "where"), timeout=LONG)


def test_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_ended", threading.Event())
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)  # the commands have another user
    with held(HostEngine(tmp_path / "out" / "work"), "", tmp_path) as server:
        check(server)
