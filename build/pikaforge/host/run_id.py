"""The run that made a container, network or folder. By it, the next run finds what a killed run has left."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from pikaforge.host import process


def _machine() -> str:
    """Return an id of this boot of this machine, as seen from this PID namespace.

    Process ids mean something only within one namespace, and several of them (two CI runners in containers) may
    share an engine.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    namespace = Path("/proc/self/ns/pid").readlink()
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:16]


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

        A process id that was given out again has another start time. Nothing is known of processes of other machines,
        so what they have made is left alone.
        """
        return self.machine == _machine() and process.start_time(self.pid) != self.started
