"""CPU microarchitectures: which one a model's build may assume, and the compiler flags for it.

Names, ancestry and flags are archspec's (https://archspec.readthedocs.io). Its feature sets are not complete
(the audit takes the compiler's own macros instead), but they are right for comparing microarchitectures of one
lineage, which is all that is done here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from packaging.version import Version

if TYPE_CHECKING:
    from archspec.cpu import Microarchitecture

ROOT = "x86_64"

FLAG_OVERRIDES: dict[str, dict[str, str]] = {
    # archspec yields icelake-client; the models with this target are servers, and gcc has had icelake-server
    # beside it since the same release (8.1, https://gcc.gnu.org/gcc-8/changes.html).
    "icelake": {"icelake-client": "icelake-server"},
}


KERNEL_NAMES = {"sse3": "pni"}
"""What archspec names otherwise than /proc/cpuinfo."""
NO_INSTRUCTIONS = frozenset({"flush_l1d"})
"""Features of archspec's that programs cannot use, and that virtual machines often hide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """The flags of a target for one compiler, or why there are none and what is nearest."""

    target: str
    """The target that was asked for."""
    flags: tuple[str, ...] = ()
    """`-march` and `-mtune`, then feature options, as the compiler takes them; empty if it cannot."""
    nearest: str = ""
    """The best ancestor that the compiler can produce; set only where the target itself is impossible."""
    reason: str = ""

    @property
    def possible(self) -> bool:
        """Whether the compiler can produce code for the target."""
        return not self.reason


@lru_cache(maxsize=1)
def _x86() -> dict[str, Microarchitecture]:
    from archspec.cpu import TARGETS  # noqa: PLC0415  # 40 ms that `--help` must not cost

    return {name: t for name, t in TARGETS.items() if t.name == ROOT or any(a.name == ROOT for a in t.ancestors)}


def known() -> frozenset[str]:
    """The names of all x86-64 microarchitectures that archspec knows."""
    return frozenset(_x86())


def features(name: str) -> frozenset[str]:
    """The kernel's names of the features of a microarchitecture, ancestors' included."""
    return frozenset(_x86()[name].features)


def kernel_flags(name: str) -> frozenset[str]:
    """What code for a microarchitecture may use, as /proc/cpuinfo spells it."""
    return frozenset(KERNEL_NAMES.get(feature, feature) for feature in features(name) - NO_INSTRUCTIONS)


def _lineage(name: str) -> list[str]:
    micro = _x86()[name]
    return [micro.name, *(a.name for a in micro.ancestors if a.name in _x86())]


def ancestors(name: str) -> tuple[str, ...]:
    """The microarchitectures that one descends from, the nearest first; without itself."""
    return tuple(_lineage(name)[1:])


def best(names: Iterable[str]) -> str:
    """The microarchitecture with the most features, of at least one."""
    # The most features win; among equals the one with the longer lineage is the more specific.
    return max(names, key=lambda n: (len(_x86()[n].features), len(_lineage(n)), n))


@lru_cache(maxsize=1024)
def common_target(cpus: Sequence[str]) -> str:
    """The best microarchitecture whose code all of `cpus` can run.

    It is a common ancestor, and its features are a subset of each CPU's: archspec's ancestry alone would do, but a
    CPU that lost a feature of its ancestor must not get code that uses it.

    Args:
        cpus: archspec names, at least one; a tuple, because results are kept.
    """
    common = set(_lineage(cpus[0])).intersection(*(_lineage(c) for c in cpus[1:]))
    runnable = [n for n in common if all(features(n) <= features(c) for c in cpus)]
    return best(runnable)


def _flags(name: str, gcc: str) -> tuple[tuple[str, ...], str]:
    from archspec.cpu import UnsupportedMicroarchitecture  # noqa: PLC0415

    # archspec raises on a patch level for some ranges ("12.2.0"), and wants it for gcc 4 ("4.8.5").
    release = Version(gcc).release
    version = gcc if release[0] == 4 else ".".join(map(str, release[:2]))
    try:
        text = _x86()[name].optimization_flags("gcc", version)
    except UnsupportedMicroarchitecture:
        return (), f"gcc {gcc} cannot produce code for {name}"
    swap = FLAG_OVERRIDES.get(name, {})
    flags = []
    for flag in text.split():
        option, eq, value = flag.partition("=")
        flags.append(f"{option}{eq}{swap.get(value, value)}")
    return tuple(flags), ""


@lru_cache(maxsize=1024)
def resolve(target: str, gcc: str) -> Resolution:
    """The compiler flags for `target` with gcc version `gcc` ("4.8.5", "12.2")."""
    flags, reason = _flags(target, gcc)
    if not reason:
        return Resolution(target=target, flags=flags)
    possible = [n for n in _lineage(target)[1:] if not _flags(n, gcc)[1]]
    return Resolution(target=target, nearest=best(possible), reason=reason)
