"""Platform tags of wheels (PEP 600): which hosts a wheel is for.

A tag manylinux_X_Y promises more than glibc X.Y. It is for every distribution of that time, and so says which versions
of libstdc++, libgcc and zlib a host has, too: a program of Debian 12 may need no symbol newer than GLIBC_2.34, and one
of libstdc++ (GLIBCXX_3.4.30) that EL 9 with its glibc 2.34 lacks. auditwheel has these versions as policies, and they
decide here. It is the tool by which others judge wheels, and comes from the authors of PEP 600.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from typing import Protocol

from pikaforge.formats.layout import PackingError
from pikaforge.formats.wheel.wheel_version import ARCH

OLDEST = f"manylinux_2_17_{ARCH}"
"""EL7's, the oldest of all images. A tag may ask for more than a program needs, and never for less. Its alias,
manylinux2014, is known to pip since 19.3, and the other tags since 20.3 (PEP 600). Older pips (EL7 and EL8 have 9.0;
18.1 was tried) refuse both: `pip3 install 'pip<22'` first, the last one for Python 3.6."""
LOADER = "ld-linux"
"""Begins the loader's soname. auditwheel leaves it out, too: a program names it by its path."""


class Policy(Protocol):
    """A policy of auditwheel."""

    name: str
    aliases: tuple[str, ...]
    priority: int
    """0 of the one that fits everything; the older the hosts, the higher."""
    whitelist: frozenset[str]
    """Sonames of the libraries that hosts have."""


class Policies(Protocol):
    """auditwheel's policies for a C library and an architecture."""

    def get_policy_by_name(self, name: str) -> Policy:
        """Return the policy of a tag."""

    def versioned_symbols_policy(self, versioned_symbols: dict[str, set[str]]) -> Policy:
        """Return the policy with the oldest hosts that have all these symbol versions, by library."""


@cache
def _policies() -> Policies:
    from auditwheel.architecture import Architecture  # noqa: PLC0415  # 0.2 s that nothing else needs
    from auditwheel.libc import Libc  # noqa: PLC0415
    from auditwheel.policy import WheelPolicies  # noqa: PLC0415

    policies: Policies = WheelPolicies(libc=Libc.GLIBC, arch=Architecture(ARCH))
    return policies


def platform_tags(versions: Mapping[str, str], libraries: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the platform tags of a tree.

    Args:
        versions: the manifest's `audit.symbol_versions`, the highest of each namespace. There is no GLIBC if the
            programs need no C library of the host.
        libraries: the manifest's `audit.system_libraries`, the sonames that are taken from the host.

    Raises:
        PackingError: no tag promises such hosts.
    """
    policies = _policies()
    needed = {f"{namespace}_{number}" for namespace, number in versions.items()}
    oldest = policies.get_policy_by_name(OLDEST)
    found = min(policies.versioned_symbols_policy({"": needed}), oldest, key=lambda policy: policy.priority)
    if found.priority == 0:
        raise PackingError(
            f"no platform tag of a wheel promises hosts with {', '.join(sorted(needed))}",
            hint=f"auditwheel {version('auditwheel')} has no such policy: update it, or take `wheel` out of `formats`",
        )
    strange = sorted(name for name in libraries if name not in found.whitelist and not name.startswith(LOADER))
    if strange:
        raise PackingError(
            f"no platform tag of a wheel promises hosts with {', '.join(strange)}",
            hint="take it out of defaults.base_libraries, so that it travels along, or `wheel` out of `formats`",
        )
    return (found.name, *found.aliases)
