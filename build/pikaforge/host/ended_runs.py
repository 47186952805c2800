"""Runs that have ended, by the text of their ids, and what they have left in folders.

Each build asks this, also one with nothing to do, so this module imports nothing that such a build does not need.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator

LEFT = re.compile(r"[.-]([0-9a-f]{16}-\d+-\d+)(?:-[^-]+)?$")
"""The run id at the end of a name; there may be random letters behind it."""
START, MARK = "pikaforge-", ".run"
"""Begin and end of the name of a file that says whose a temporary folder is."""
LIMIT = 100
"""Bytes of such a file; the text of a run id has 50 at most."""
BOOT, MACHINE, NAMESPACE = "/proc/sys/kernel/random/boot_id", "/etc/machine-id", "/proc/self/ns/pid"
FIRST_NAMESPACE = "pid:[4026531836]"
"""The PID namespace of a machine itself, and of none of its containers (Linux, include/linux/proc_ns.h)."""
HOST = 8
"""Digits of a machine's id that are the same after it has started again."""


def machine_id() -> str:
    """Return an id of this machine and of this boot of it, as seen from this PID namespace.

    Process ids mean something only within one namespace, and several of them (two CI runners in containers) may
    share an engine. Containers get another host with each boot: what an image has as machine-id is no single one's.
    """
    boot = _text(BOOT, errors="strict").strip()
    namespace = os.readlink(NAMESPACE)  # noqa: PTH115
    now = _digest(f"{boot} {namespace}")
    try:
        name = _text(MACHINE, errors="strict").strip()
    except (OSError, UnicodeDecodeError):
        name = ""
    lasting = f"{name} {os.uname().nodename}" if name and namespace == FIRST_NAMESPACE else now
    return _digest(lasting)[:HOST] + now[: 16 - HOST]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _text(path: str, *, errors: str) -> str:
    with open(path, encoding="utf-8", errors=errors) as stream:  # noqa: PTH123  # pathlib costs 10 ms
        return stream.read()


def start_time(pid: int) -> str | None:
    """Return when a process has started, in clock ticks since boot (/proc/PID/stat, field 22); None if it has ended."""
    try:
        text = _text(f"/proc/{pid}/stat", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()[19]


def parts(text: str) -> tuple[str, int, str] | None:
    """Return machine, process id and start time in the text of a run id; None for anything else."""
    machine, _, rest = text.partition("-")
    pid, _, started = rest.partition("-")
    if not (machine and pid.isdecimal() and started.isdecimal()):
        return None
    return machine, int(pid), started


def has_ended(text: str) -> bool:
    """Return whether the run with an id has certainly ended: it was one of this machine, and does not run any more.

    A process id that was given out again has another start time. None runs on after a power cut. Nothing is known of
    processes of other machines, so what they have made is left alone.
    """
    found = parts(text)
    if found is None:
        return False
    machine, pid, started = found
    here = machine_id()
    if machine == here:
        return start_time(pid) != started
    return machine[:HOST] == here[:HOST]


def left(folder: str) -> list[str]:
    """Return the names of what runs that have ended have made in a folder, and named by their run id."""
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []
    return [
        name
        for name in names
        if name.startswith(".") and (found := LEFT.search(name)) is not None and has_ended(found[1])
    ]


def marks_left(places: Iterable[str]) -> Iterator[str]:
    """Yield the paths of marks of temporary folders of this user's runs that have ended."""
    for place in places:
        try:
            names = os.listdir(place)  # noqa: PTH208
        except OSError:
            continue
        for name in names:
            path = f"{place}/{name}"
            if name.startswith(START) and name.endswith(MARK) and own(path, stat.S_IFREG) and has_ended(_begin(path)):
                yield path


def _begin(path: str) -> str:
    """Return what a mark says; "" if it cannot be read."""
    try:
        with open(path, encoding="ascii") as stream:  # noqa: PTH123
            return stream.read(LIMIT)
    except (OSError, UnicodeDecodeError):
        return ""


def own(path: str | os.PathLike[str], kind: int) -> bool:
    """Return whether a path is of this user and of a kind (stat.S_IFREG, S_IFDIR). A link is of neither."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_IFMT(found.st_mode) == kind and found.st_uid == os.geteuid()
