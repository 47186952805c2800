"""`limits` of matrix.yaml: how much a job may use."""

from __future__ import annotations

from pydantic import Field

from pikaforge.config.scalars import Strict
from pikaforge.host.confinement import USUAL, Bounds


class Limits(Strict):
    """How much one container may use. They end a build that goes astray, and change no result."""

    processes: int = Field(
        default=USUAL.processes, ge=64, le=1 << 22, description="Processes and threads at once, of a container."
    )
    memory_mib: int | None = Field(
        default=None, ge=256, le=1 << 24, description="MiB of memory; else seven eighths of the engine's machine."
    )
    file_mib: int = Field(default=USUAL.file >> 20, ge=64, le=1 << 24, description="MiB of a single file.")
    log_mib: int = Field(default=USUAL.log >> 20, ge=1, le=4096, description="MiB that a job may print.")
    minutes: int = Field(
        default=int(USUAL.seconds) // 60, ge=1, le=100_000, description="How long a compilation may take."
    )

    def bounds(self) -> Bounds:
        """Return them in the engine's units."""
        return Bounds(
            processes=self.processes,
            memory=(self.memory_mib or 0) << 20,
            file=self.file_mib << 20,
            seconds=self.minutes * 60,
            log=self.log_mib << 20,
        )
