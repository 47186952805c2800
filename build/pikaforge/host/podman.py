"""Differences of podman where it speaks docker's protocol: texts and figures, without a call to an engine.

They were observed with podman 4.3 of Debian 12. No key and no package depends on which engine is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pikaforge.errors import EngineError
from pikaforge.host.http import redacted

MOST = 1 << 20
"""The limit that podman as root sets for a container if no limit is asked for. The machine may allow less."""
LIMITS = {"nofile": "Max open files", "nproc": "Max processes"}
"""Limits that podman sets if a container asks for none, and their names in /proc/PID/limits."""
SHOW_LIMITS = ("sh", "-c", "cat /proc/$PPID/limits")
"""Prints the limits of the process that has started the container. The container can have no higher ones."""
SEE_ALL: Mapping[str, object] = {"init": False, "pid_mode": "host"}
"""Options of a container that can see that process."""
LEAST = {"core": 0, "nofile": 256, "nproc": 256}
"""Limits of the container that runs `SHOW_LIMITS`; every machine allows them. Processes of root are not counted."""
LIMITED = 'ulimit -c 0 && ulimit -f {blocks} && {{ [ -z "$0" ] || ulimit -n "$0"; }} && exec "$@"'
"""Shell text that starts a program with no core files, and limits of open files and of the size of files (in blocks of
512 bytes, or `unlimited`); it keeps the process id."""
IMAGE = "/v4.0.0/libpod/images/{id}/json"
"""Path of an image in podman's own interface. See `replies.PodmanImage`."""
LOGS = "json-file"
"""The log driver. Podman's default may be the journal, which drops lines that come too fast."""

HINTS = {
    r"container-init|catatonit": (
        "podman needs catatonit as the first process of containers: install the package catatonit where podman runs"
    ),
    r"hybrid mode": (
        "crun cannot use the control groups of that machine, runc can: install the package runc there, and start\n"
        'podman with --runtime runc, or write runtime = "runc" below [engine] in /etc/containers/containers.conf'
    ),
    r"rlimit": "the engine may not give a container so much: raise LimitNOFILE and LimitNPROC of its service",
    r"netavark|aardvark|failed to find plugin": (
        "podman needs netavark, aardvark-dns and iptables for networks: install the packages where podman runs"
    ),
}
"""What to do, by patterns in podman's error messages."""


SPOKEN = ("unix://", "tcp://")
"""Begins of addresses at which podman speaks docker's protocol, too."""


def named(given: Mapping[str, str]) -> str:
    """Return the address of the engine that podman's own variables name; "" if they name none.

    Podman reads CONTAINER_HOST and CONTAINER_CONNECTION (podman(1)). Another engine must not be used silently.

    Raises:
        HostError: the engine cannot be reached as they say.
    """
    host, connection = given.get("CONTAINER_HOST", ""), given.get("CONTAINER_CONNECTION", "")
    if host.startswith(SPOKEN) or not (host or connection):
        return host
    variable = "CONTAINER_HOST" if host else "CONTAINER_CONNECTION"
    raise EngineError(
        f"{variable} names an engine of podman's that only podman itself can reach",
        where=f"{variable}={redacted(host or connection)}",
        hint="set DOCKER_HOST to its address, unix://… or tcp://…; over ssh, bring its socket here first:\n"
        "ssh -nNT -L /tmp/podman.sock:/run/podman/podman.sock USER@HOST, then DOCKER_HOST=unix:///tmp/podman.sock\n"
        f"or unset {variable}: then an engine of this machine is used",
    )


def hard_limits(text: str) -> dict[str, int]:
    """Return the hard limits in a text of /proc/PID/limits, by the names in `LIMITS`; none for what is unlimited."""
    limits = {}
    for name, title in LIMITS.items():
        found = re.search(rf"^{title} +\S+ +(\d+) ", text, re.MULTILINE)
        if found:
            limits[name] = min(int(found.group(1)), MOST)
    return limits


def limited(argv: tuple[str, ...], limits: Mapping[str, int]) -> tuple[str, ...]:
    """Return a command that runs another one with limits, for an engine that sets none."""
    blocks = str(limits["fsize"] // 512) if "fsize" in limits else "unlimited"
    return ("/bin/sh", "-c", LIMITED.format(blocks=blocks), str(limits.get("nofile", "")), *argv)
