"""What differs where podman answers in docker's protocol. Pure: texts and figures, no call to an engine.

Looked at with podman 4.3 of Debian 12. Which engine it is decides nothing that a key or a package depends on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MOST = 1 << 20
"""The limit that podman gives a container as root if it is asked for none, whatever the machine allows."""
LIMITS = {"nofile": "Max open files", "nproc": "Max processes"}
"""Limits that podman sets if a container asks for none, and their names in /proc/PID/limits."""
SHOW_LIMITS = ("sh", "-c", "cat /proc/$PPID/limits")
"""Shows the limits of who started the container, which may raise none of them."""
SEE_ALL: Mapping[str, object] = {"init": False, "pid_mode": "host"}
"""Options with which it sees that process."""
LEAST = {"core": 0, "nofile": 256, "nproc": 256}
"""Limits with which `SHOW_LIMITS` runs; no machine allows less. Root's processes are not counted."""
LIMITED = 'ulimit -c 0 && { [ -z "$0" ] || ulimit -n "$0"; } && exec "$@"'
"""Shell text that starts a program with no core files and a limit of open files; it keeps the process id."""
IMAGE = "/v4.0.0/libpod/images/{id}/json"
"""What podman's own interface says of an image; among it `Digest`, which its tag has in the registry."""
LOGS = "json-file"
"""Where logs are kept. What podman takes itself may be the journal, which drops lines that come too fast."""

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
"""Patterns in what it says when it fails, and what to do."""


def hard_limits(text: str) -> dict[str, int]:
    """What a container may have at most, of `LIMITS`, out of a /proc/PID/limits; nothing for what has no limit."""
    limits = {}
    for name, title in LIMITS.items():
        found = re.search(rf"^{title} +\S+ +(\d+) ", text, re.MULTILINE)
        if found:
            limits[name] = min(int(found.group(1)), MOST)
    return limits


def limited(argv: tuple[str, ...], limits: Mapping[str, int]) -> tuple[str, ...]:
    """The command that runs another with limits, for an engine that sets none; more than its user may, none can."""
    return ("/bin/sh", "-c", LIMITED, str(limits.get("nofile", "")), *argv)
