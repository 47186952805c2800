"""A container engine as `doctor` sees it: whether it answers, what it is, and what its machine has."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from pikaforge.errors import HostError
from pikaforge.host.confinement import Abilities
from pikaforge.host.connection import EngineConnection, address
from pikaforge.host.http import redacted

LOCAL = "unix://"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSeen:
    """An engine, or why there is none."""

    kind: str
    """docker, podman, or `host` for this machine without one."""
    address: str = ""
    version: str = ""
    driver: str = ""
    """Its storage driver."""
    root: str = ""
    """Folder of its images and containers, on its machine."""
    local: bool = True
    """Whether that is this machine."""
    cores: int = 1
    abilities: Abilities = field(default_factory=Abilities)
    problem: str = ""
    """Why it cannot be used; "" if it can."""
    hint: str = ""


def look(connection: EngineConnection) -> EngineSeen:
    """Return what an engine says of itself."""
    try:
        where = address() or LOCAL
        connection.verify()
        info = connection.info()
    except HostError as error:
        return EngineSeen(kind="engine", problem=error.message, hint=error.hint)
    facts = connection.facts()
    return EngineSeen(
        kind="podman" if facts.podman else "docker",
        address=where if where.startswith(LOCAL) else redacted(where),
        version=info.version or "",
        driver=info.driver or "",
        root=info.root or "",
        local=where.startswith(LOCAL),
        cores=facts.cores,
        abilities=facts.abilities,
    )


def this_machine(memory: int) -> EngineSeen:
    """Return this machine in place of an engine, for `--engine host`."""
    return EngineSeen(
        kind="host", cores=len(os.sched_getaffinity(0)), abilities=Abilities(memory=memory, limits_memory=False)
    )
