"""Red Hat Enterprise Linux and its compatible builds."""

from __future__ import annotations

from dataclasses import replace

from pikaforge.host.os_families.family import Family
from pikaforge.host.os_families.package_managers import RpmManager

EL = Family(
    name="el",
    recipe="el",
    ids=frozenset({"rhel", "centos", "rocky", "almalinux", "ol"}),
    alike=True,
    packages=RpmManager(first_dnf=8),
    formats=frozenset({"rpm"}),
    toolchain=(
        *("gcc", "gcc-c++", "make", "binutils", "findutils"),
        *("patchelf", "ccache", "git", "tar", "gzip", "xz", "bzip2"),
    ),
    tag="el{major}",
    # EL7's systemd was built without sysusers; it has tmpfiles (systemd 219).
    first_sysusers=8,
    # EL8's rpm reads zstd since 8.2 only (rpm-4.14.2-26.el8, https://bugzilla.redhat.com/show_bug.cgi?id=1715799), and
    # a host may be older; EL9 packs its own packages with it.
    first_zstd=9,
)
EL7 = replace(EL, name="el7", recipe="el7")
"""Release 7 of `EL` with a recipe of its own: its mirrors are archives, and its compiler is another one."""
