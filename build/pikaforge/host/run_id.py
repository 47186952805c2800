"""The run that made a container, network or folder. By it, the next run finds what a killed run has left."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pikaforge.host import ended_runs


@dataclass(frozen=True, slots=True, kw_only=True)
class RunId:
    """A process of this tool. Containers and networks have its `text` as a label, folders have it in their names."""

    machine: str
    """See `ended_runs.machine_id`."""
    pid: int
    started: str
    """See `ended_runs.start_time`."""

    @classmethod
    def current(cls) -> RunId:
        """Return the id of this process."""
        pid = os.getpid()
        return cls(machine=ended_runs.machine_id(), pid=pid, started=ended_runs.start_time(pid) or "")

    @classmethod
    def parse(cls, text: str) -> RunId | None:
        """Return the id that has this `text`; None for anything else."""
        found = ended_runs.parts(text)
        return None if found is None else cls(machine=found[0], pid=found[1], started=found[2])

    @property
    def text(self) -> str:
        """`machine-pid-started`, safe in labels and file names."""
        return f"{self.machine}-{self.pid}-{self.started}"

    def gone(self) -> bool:
        """Return whether the process has certainly ended; see `ended_runs.has_ended`."""
        return ended_runs.has_ended(self.text)
