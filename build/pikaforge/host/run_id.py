"""The run that made a container, network or folder. By it, the next run finds what a killed run has left."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from pikaforge.host import process

FIRST_NAMESPACE = "pid:[4026531836]"
"""The PID namespace of a machine itself, and of none of its containers (Linux, include/linux/proc_ns.h)."""
HOST = 8
"""Digits of a machine's id that are the same after it has started again."""


def _machine() -> str:
    """Return an id of this machine and of this boot of it, as seen from this PID namespace.

    Process ids mean something only within one namespace, and several of them (two CI runners in containers) may
    share an engine. Containers get another host with each boot: what an image has as machine-id is no single one's.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    namespace = str(Path("/proc/self/ns/pid").readlink())
    now = _digest(f"{boot} {namespace}")
    try:
        name = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        name = ""
    lasting = f"{name} {os.uname().nodename}" if name and namespace == FIRST_NAMESPACE else now
    return _digest(lasting)[:HOST] + now[: 16 - HOST]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunId:
    """A process of this tool. Containers and networks have its `text` as a label, folders have it in their names."""

    machine: str
    """See `_machine`."""
    pid: int
    started: str
    """See `process.start_time`."""

    @classmethod
    def current(cls) -> RunId:
        """Return the id of this process."""
        pid = os.getpid()
        return cls(machine=_machine(), pid=pid, started=process.start_time(pid) or "")

    @classmethod
    def parse(cls, text: str) -> RunId | None:
        """Return the id that has this `text`; None for anything else."""
        machine, _, rest = text.partition("-")
        pid, _, started = rest.partition("-")
        if not (machine and pid.isdecimal() and started.isdecimal()):
            return None
        return cls(machine=machine, pid=int(pid), started=started)

    @property
    def text(self) -> str:
        """`machine-pid-started`, safe in labels and file names."""
        return f"{self.machine}-{self.pid}-{self.started}"

    def gone(self) -> bool:
        """Return whether the process has certainly ended: it was one of this machine, and does not run any more.

        A process id that was given out again has another start time. None runs on after a power cut. Nothing is known
        of processes of other machines, so what they have made is left alone.
        """
        here = _machine()
        if self.machine == here:
            return process.start_time(self.pid) != self.started
        return self.machine[:HOST] == here[:HOST]
