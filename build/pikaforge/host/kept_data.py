"""Data of servers on this machine that outlives them: a folder for each, and the server that uses it.

A run that is killed leaves its server behind. Two servers must not use one folder, so the next run ends the first one.
"""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pikaforge.errors import HostError
from pikaforge.host import process
from pikaforge.host.disk import full_disk_errors
from pikaforge.host.run_id import RunId

FOLDER = "kept"
SUFFIX = ".server"
LOOKS, LOOK = 100, 0.1
"""How often, and after how many seconds, it is looked whether a server that was killed has ended."""


def opened(parent: Path, name: str) -> Path:
    """Return the folder of that name; it is made, and a server that still uses it is ended.

    Args:
        parent: the folder of all such folders.
        name: of the data.
    """
    folder = parent / name
    with full_disk_errors(parent):
        folder.mkdir(parents=True, exist_ok=True)
    _end_server(folder)
    return folder


def note(parent: Path, name: str, pid: int) -> None:
    """Note which process uses the folder of that name."""
    user = replace(RunId.current(), pid=pid, started=process.start_time(pid) or "0")
    with full_disk_errors(parent):
        _file(parent / name).write_text(user.text, encoding="ascii")


def forget(parent: Path, name: str) -> None:
    """Remove the folder of that name, if it is there; a server that still uses it is ended."""
    folder = parent / name
    _end_server(folder)
    shutil.rmtree(folder, ignore_errors=True)
    _file(folder).unlink(missing_ok=True)


def _file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{SUFFIX}")


def _end_server(folder: Path) -> None:
    """End the server that uses a folder; a process id that was given out again has another start time."""
    try:
        user = RunId.parse(_file(folder).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return
    if user is None or user.machine != RunId.current().machine:
        return
    for _ in range(LOOKS):
        if user.gone() or process.ended(user.pid):
            return
        with suppress(ProcessLookupError):
            os.killpg(user.pid, signal.SIGKILL)
        process.pause(LOOK)
    raise HostError(f"a server of an earlier run still uses {folder}: process {user.pid}", hint="end it, and run again")
