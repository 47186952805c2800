"""This machine: its operating system, CPU flags, package database and compiler."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

from pikaforge.cpu import emulation
from pikaforge.errors import HostError
from pikaforge.host import process
from pikaforge.host.os_families.debian import DEBIAN
from pikaforge.host.os_families.enterprise_linux import EL
from pikaforge.host.os_families.family import OsFamily

OS_RELEASE = Path("/etc/os-release")
CPUINFO = Path("/proc/cpuinfo")
DPKG_STATUS = Path("/var/lib/dpkg/status")


def os_release(path: Path = OS_RELEASE) -> tuple[str, str]:
    """Return ID and VERSION_ID of this machine (os-release(5)); empty strings where there are none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "", ""
    values: dict[str, str] = {}
    for line in lines:
        name, eq, value = line.partition("=")
        if eq:
            words = shlex.split(value, comments=False) if value.count('"') % 2 == 0 else [value]
            values[name.strip()] = words[0] if words else ""
    return values.get("ID", ""), values.get("VERSION_ID", "")


def cpu_flags() -> frozenset[str]:
    """Return the /proc/cpuinfo flags that all CPUs of this machine have."""
    return emulation.flags_of(CPUINFO.read_text(encoding="utf-8", errors="replace"))


def cpu_model() -> str:
    """Return how the CPUs of this machine call themselves; see `emulation.model_of`."""
    return emulation.model_of(CPUINFO.read_text(encoding="utf-8", errors="replace"))


def package_manager(status: Path = DPKG_STATUS) -> Literal["dpkg", "rpm"]:
    """Return which package database this machine has.

    An rpm system may have dpkg's tools, too. Its dpkg database is empty then.

    Args:
        status: dpkg's database.

    Raises:
        HostError: it has neither.
    """
    dpkg, rpm = process.find("dpkg-query") is not None, process.find("rpm") is not None
    if dpkg and not (rpm and _is_empty(status)):
        return "dpkg"
    if rpm:
        return "rpm"
    raise HostError("this machine has neither dpkg nor rpm", hint="use a container engine")


def family() -> OsFamily:
    """Return a family that has this machine's package database.

    Raises:
        HostError: it has none that is known.
    """
    return DEBIAN if package_manager() == "dpkg" else EL


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except OSError:
        return True


def compiler_version() -> str:
    """Return the version of gcc on this machine; "" without one."""
    if process.find("gcc") is None:
        return ""
    done = process.run(["gcc", "-dumpfullversion"])
    if done.status != 0:  # before gcc 7
        done = process.run(["gcc", "-dumpversion"])
    return done.text().strip()
