"""The check of what tests start: only what setup.sh brings."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import programs
import pytest

NOT_LISTED = "ls"
"""A program that each machine has, and no test starts."""


def started(program: str | bytes | Path, env: dict[str, str] | None = None) -> tuple[Any, ...]:
    """The arguments of the audit event, as subprocess gives them."""
    return (program, [program], None, env)


@pytest.mark.parametrize("way", ["name", "path", "bytes", "path object"])
def test_a_program_that_setup_does_not_bring_is_refused(way: str) -> None:
    path = shutil.which(NOT_LISTED)
    assert path is not None
    ways: dict[str, str | bytes | Path] = {
        "name": NOT_LISTED,
        "path": path,
        "bytes": os.fsencode(NOT_LISTED),
        "path object": Path(path),
    }
    given = ways[way]
    for env in (None, {"PATH": str(Path(path).parent)}):
        with pytest.raises(AssertionError, match=r"does setup\.sh bring 'ls'"):
            programs.check("subprocess.Popen", started(given, env))


def test_all_else_may_be_started(tmp_path: Path) -> None:
    own = tmp_path / NOT_LISTED
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    for program in (*programs.PROGRAMS, *programs.OPTIONAL, sys.executable, "no-such-program", str(own)):
        programs.check("subprocess.Popen", started(program))
    programs.check("subprocess.Popen", started(NOT_LISTED, {"PATH": str(tmp_path)}))
    programs.check("open", (shutil.which(NOT_LISTED), "r", 0))


def test_each_list_is_of_other_programs() -> None:
    assert not programs.PROGRAMS & programs.OPTIONAL.keys()
    assert NOT_LISTED not in programs.PROGRAMS
