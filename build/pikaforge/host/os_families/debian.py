"""Debian and Ubuntu."""

from __future__ import annotations

from pikaforge.host.os_families.family import Family
from pikaforge.host.os_families.package_managers import DpkgManager

DEBIAN = Family(
    name="debian",
    recipe="debian",
    ids=frozenset({"debian", "ubuntu"}),
    packages=DpkgManager(),
    formats=frozenset({"deb"}),
    toolchain=("gcc", "g++", "make", "binutils", "patchelf", "ccache", "git", "tar", "gzip", "xz-utils", "bzip2"),
)
