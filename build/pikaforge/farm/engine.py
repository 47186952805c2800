"""The engine of a client whose nodes are made on a farm: it runs nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, NoReturn

from pikaforge.errors import EngineError
from pikaforge.farm.resources import FarmSeen
from pikaforge.host.job import Job, JobResult, RunningServer, ServerJob
from pikaforge.host.text import ignore


class FarmEngine:
    """Containers on other machines. See `Engine`."""

    kind: Literal["docker", "host"] = "docker"

    def __init__(self, seen: FarmSeen, *, jobs: int = 0) -> None:
        self._seen = seen
        self._jobs = jobs

    def verify(self) -> None:
        """Return: the scheduler has answered."""

    def root(self, label: str) -> str:
        """Refuse."""
        self._refuse(label)

    def cores(self) -> int:
        """Return the compiler processes of one compilation."""
        return self._seen.jobs(self._jobs)

    def memory(self) -> int:
        """Return the bytes of memory of all workers."""
        return sum(self._seen.memory)

    def run(self, job: Job, into: Path) -> JobResult:
        """Refuse."""
        self._refuse(job.label)

    def serve(self, job: ServerJob) -> AbstractContextManager[RunningServer]:
        """Refuse."""
        self._refuse(job.label)

    def forget(self, kept: str) -> None:
        """Return: there is nothing."""

    def network(self, label: str) -> AbstractContextManager[str]:
        """Refuse."""
        self._refuse(label)

    def cpu_flags(self, image: str) -> frozenset[str]:
        """Return nothing: this machine's CPU runs no node."""
        return frozenset()

    def cpu_model(self, image: str) -> str:
        """Return nothing, as `cpu_flags`."""
        return ""

    def known_cpu_flags(self) -> frozenset[str] | None:
        """Return nothing, as `cpu_flags`."""
        return frozenset()

    def refuse_full(self) -> None:
        """Return: nothing is written here."""

    def sweep(self, notice: Callable[[str], None] = ignore) -> int:
        """Return 0: each node's process sweeps its own engine."""
        return 0

    def abort(self) -> None:
        """Return: the runner cancels its tasks."""

    def settle(self) -> None:
        """Return: nothing runs here."""

    @staticmethod
    def _refuse(label: str) -> NoReturn:
        raise EngineError(
            f"{label} has to run on this machine, and the farm has all engines",
            where="--farm",
            hint="without PIKAFORGE_SIGNING_KEY nothing runs here\n"
            "sign by a build without --farm, with the same shared store, where an engine is: it makes images only",
        )
