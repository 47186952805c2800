"""Whether a container engine answers."""

from __future__ import annotations

from collections.abc import Iterator

from pikaforge.doctor.facts import Facts
from pikaforge.doctor.finding import Diagnosis


class EngineCheck:
    """The engine: whether it answers, and whether it can limit what jobs use."""

    name = "engine"

    def judge(self, facts: Facts) -> Iterator[Diagnosis]:
        """Yield whether it answers, and what it cannot limit."""
        engine = facts.engine
        if engine.problem:
            yield Diagnosis(
                check=self.name,
                subject="container engine",
                state="lacking",
                says=engine.problem,
                stops="every build in containers: image, compile, smoke and package stage",
                mend=tuple(engine.hint.splitlines()),
            )
            return
        if engine.kind == "host":
            says = f"none is asked for (--engine host): this machine builds, with {engine.cores} CPUs"
            yield Diagnosis(check=self.name, subject="container engine", state="ok", says=says)
            return
        says = (
            f"{engine.version}, storage driver {engine.driver or 'unknown'}, {engine.cores} CPUs, at {engine.address}"
        )
        yield Diagnosis(check=self.name, subject=engine.kind, state="ok", says=says)
        unlimited = [
            what
            for what, can in (
                ("memory", engine.abilities.limits_memory),
                ("processes", engine.abilities.limits_processes),
            )
            if not can
        ]
        if unlimited:
            yield Diagnosis(
                check=self.name,
                subject="limits",
                state="warning",
                says=f"it cannot limit {' and '.join(unlimited)}",
                stops="`limits` of matrix.yaml: a job that goes astray may take all of the machine",
                mend=("run the engine as root, or delegate the cgroup controllers memory and pids to its user",),
            )


CHECK = EngineCheck()
