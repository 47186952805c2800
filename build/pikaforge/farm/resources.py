"""What workers of a farm have, and what nodes ask for: resources, whose names mean nothing to the cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pikaforge.cpu import microarch
from pikaforge.cpu.emulation import lacking
from pikaforge.plan.budget import Demand

ENGINE, CORES, MEMORY, CPU = "engine", "cores", "memory", "cpu:"
"""Names; behind the last one comes a microarchitecture."""
UNKNOWN = 2
"""Cores for which nodes ask while no worker is there: every machine has so many."""


def natively(flags: frozenset[str]) -> list[str]:
    """Return the microarchitectures whose code a machine with these /proc/cpuinfo flags runs."""
    return sorted(name for name in microarch.known() if not lacking(name, flags))


def machine_has(*, cores: int, memory: int, flags: frozenset[str] | None) -> dict[str, float]:
    """Return the resources of a machine with an engine.

    Args:
        cores: CPUs that its engine may use.
        memory: bytes.
        flags: features of all of its CPUs; None if they are not known, so that no CPU is promised.
    """
    labels = [ENGINE, CORES, *(f"{CPU}{name}" for name in natively(flags or frozenset()))] if flags else [ENGINE, CORES]
    return {MEMORY: float(memory), **dict.fromkeys(labels, float(cores))}


@dataclass(frozen=True, slots=True, kw_only=True)
class FarmSeen:
    """The workers of a farm that have an engine, as they are now."""

    cores: tuple[int, ...] = ()
    memory: tuple[int, ...] = ()
    targets: frozenset[str] = frozenset()
    """Microarchitectures whose code at least one of them runs."""

    @classmethod
    def of(cls, workers: Iterable[Mapping[str, object]]) -> FarmSeen:
        """Return what is said of workers. A value that is no number counts as none."""
        cores, memory = [], []
        targets: set[str] = set()
        for has in workers:
            if _number(has, ENGINE) <= 0:
                continue
            cores.append(max(1, _number(has, CORES)))
            memory.append(_number(has, MEMORY))
            targets.update(name.removeprefix(CPU) for name in has if name.startswith(CPU) and _number(has, name) > 0)
        known = frozenset(targets) & microarch.known()
        return cls(cores=tuple(cores), memory=tuple(memory), targets=known)

    def jobs(self, wanted: int) -> int:
        """Return the compiler processes of one compilation.

        Without a wish they fit on the smallest worker, so that each worker compiles, and a large one several at once.
        """
        return wanted or min(self.cores, default=UNKNOWN)

    def asked(self, demand: Demand, *, jobs: int, target: str = "") -> dict[str, float]:
        """Return the resources that a node asks for.

        Args:
            demand: of its stage.
            jobs: of a compilation.
            target: whose code it runs; it goes to a machine that can, if there is one.
        """
        times = jobs if demand.elastic else 1
        room = min(self.memory, default=demand.memory)
        asked = {ENGINE: 1.0, CORES: demand.cores * times, MEMORY: float(min(demand.memory * times, room))}
        if target in self.targets:
            asked[f"{CPU}{target}"] = 1.0
        return asked


def _number(has: Mapping[str, object], name: str) -> int:
    value = has.get(name, 0)
    return int(value) if isinstance(value, (int, float)) and 0 <= value < 1 << 62 else 0


def summary(seen: FarmSeen) -> str:
    """Return what a farm has, for people."""
    if not seen.cores:
        return "no worker with an engine yet"
    best = microarch.best(sorted(seen.targets)) if seen.targets else ""
    count: Sequence[int] = seen.cores
    cores = f"{sum(count)} cores"
    return f"{len(count)} worker{'' if len(count) == 1 else 's'}, {cores}{f', CPUs up to {best}' if best else ''}"
