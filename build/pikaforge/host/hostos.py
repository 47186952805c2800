"""This machine's own operating system: which image it matches, and what is installed on it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pikaforge.cpu import emulation
from pikaforge.errors import HostError
from pikaforge.host import process

OS_RELEASE = Path("/etc/os-release")
CPUINFO = Path("/proc/cpuinfo")
DPKG_STATUS = Path("/var/lib/dpkg/status")
EL_LIKE = frozenset({"rhel", "centos", "rocky", "almalinux", "ol"})
"""IDs that are binary-compatible builds of one distribution; a matching major version is enough."""

TOOLCHAIN: Mapping[str, tuple[str, ...]] = {
    "dpkg": ("gcc", "g++", "make", "binutils", "patchelf", "ccache", "git", "tar", "gzip", "xz-utils", "bzip2"),
    "rpm": (
        "gcc",
        "gcc-c++",
        "make",
        "binutils",
        "findutils",
        "patchelf",
        "ccache",
        "git",
        "tar",
        "gzip",
        "xz",
        "bzip2",
    ),
}
"""What the guest scripts need beside the product's own packages (see docker/*/Dockerfile)."""


def os_release(path: Path = OS_RELEASE) -> tuple[str, str]:
    """ID and VERSION_ID of this machine; empty strings where there are none (os-release(5))."""
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
    """The /proc/cpuinfo flags that all CPUs of this machine have."""
    return emulation.flags_of(CPUINFO.read_text(encoding="utf-8", errors="replace"))


def package_manager(status: Path = DPKG_STATUS) -> Literal["dpkg", "rpm"]:
    """Which package database this machine has.

    A system of one kind may have the other's tools installed, too; an empty dpkg database then says it is rpm's.
    """
    dpkg, rpm = process.find("dpkg-query") is not None, process.find("rpm") is not None
    if dpkg and not (rpm and _is_empty(status)):
        return "dpkg"
    if rpm:
        return "rpm"
    raise HostError("this machine has neither dpkg nor rpm", hint="use a container engine")


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except OSError:
        return True


def installed(names: Iterable[str]) -> dict[str, str]:
    """The versions of those of the named packages that are installed."""
    wanted = list(names)
    if not wanted:
        return {}
    if package_manager() == "dpkg":
        form = "${binary:Package}\t${db:Status-Abbrev}\t${Version}\n"
        done = process.run(["dpkg-query", "--show", f"--showformat={form}", *wanted])
        found = {}
        for line in done.text().splitlines():
            name, status, version = line.split("\t")
            if status[1:2] == "i":
                found[name.partition(":")[0]] = version
        return found
    done = process.run(["rpm", "-q", "--queryformat", "%{NAME}\t%{VERSION}-%{RELEASE}\n", *wanted])
    pairs = (line.split("\t") for line in done.text().splitlines() if "\t" in line)
    return {line[0]: line[1] for line in pairs}


def install_command() -> str:
    """How an administrator installs packages here."""
    if package_manager() == "dpkg":
        return "apt-get install"
    return "dnf install" if process.find("dnf") else "yum install"


def compiler_version() -> str:
    """The version of gcc on this machine, "" without one."""
    if process.find("gcc") is None:
        return ""
    done = process.run(["gcc", "-dumpfullversion"])
    if done.status != 0:  # before gcc 7
        done = process.run(["gcc", "-dumpversion"])
    return done.text().strip()
