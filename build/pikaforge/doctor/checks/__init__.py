"""The checks, in the order in which people read them. A new one is a module here, and a name in this list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pikaforge.doctor.checks import clock, disk, emulator, engine, inputs, keys, memory, network, tools
from pikaforge.doctor.facts import Facts
from pikaforge.doctor.finding import Diagnosis, DoctorCheck

CHECKS: Sequence[DoctorCheck] = (
    inputs.ConfigurationCheck(),
    inputs.PinsCheck(),
    engine.CHECK,
    disk.CHECK,
    memory.CHECK,
    tools.CHECK,
    network.SourceCheck(),
    network.RegistryCheck(),
    network.ServersCheck(),
    emulator.CHECK,
    keys.CHECK,
    clock.CHECK,
)


def judge(facts: Facts, checks: Iterable[DoctorCheck] = CHECKS) -> tuple[Diagnosis, ...]:
    """Return what all checks say of some facts."""
    return tuple(finding for check in checks for finding in check.judge(facts))
