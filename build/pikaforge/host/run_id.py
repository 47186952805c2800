"""Who made a thing, so that the next run can tell what a killed run left behind."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from pikaforge.host import process


def _machine() -> str:
    """This boot of this machine, as seen from this PID namespace.

    Process ids mean something only within one namespace, and several of them (two CI runners in containers) may
    share an engine.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    namespace = Path("/proc/self/ns/pid").readlink()
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunId:
    """A process of this tool; `text` is its label on containers, networks and work folders."""

    machine: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> RunId:
        """The owner that this process is."""
        pid = os.getpid()
        return cls(machine=_machine(), pid=pid, started=process.start_time(pid) or "")

    @classmethod
    def parse(cls, text: str) -> RunId | None:
        """The inverse of `text`; None for anything else."""
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
        """Whether the process certainly ended: it was one of this machine's, and runs no more.

        A process id that was given out again is recognised by its other start time. Of other machines nothing
        can be known, so their things are left alone.
        """
        return self.machine == _machine() and process.start_time(self.pid) != self.started
