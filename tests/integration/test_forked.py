"""What starts the tool for the tests: the process that forks has nothing of the runs that it starts."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from forked import Preloaded
from survival import MARK, processes


def test_the_process_that_forks_is_not_taken_for_a_run(tmp_path: Path) -> None:
    mark = secrets.token_hex(8)
    env = {**os.environ, MARK: mark, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    forks = Preloaded()
    assert forks.same_start(env)
    run = forks.start(("--help",), env, tmp_path, -1)
    with run.stdout, run.stderr:
        assert "build" in run.stdout.read()
        assert run.wait(60) == 0
        assert processes(mark) == [], "a test that looks for what is left would wait for it"
    assert forks.same_start({**env, MARK: "another"})
    assert not forks.same_start({**env, "PYTHONPATH": ""})
