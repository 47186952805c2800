"""CPU microarchitectures: the best one for a model, and the compiler's flags for it.

Names, ancestry and flags are archspec's (https://archspec.readthedocs.io). Its feature sets are not complete, so the
audit takes what the compiler's own macros and the table of features agree on. archspec's are good enough to compare
microarchitectures of one lineage, which is what this module does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from packaging.version import Version

from pikaforge.cpu.assumptions import Hosts

if TYPE_CHECKING:
    from archspec.cpu import Microarchitecture

ROOT = "x86_64"

FLAG_OVERRIDES: dict[str, dict[str, str]] = {
    # archspec yields icelake-client. The models with this target are servers, and gcc has had icelake-server since
    # the same release (8.1, https://gcc.gnu.org/gcc-8/changes.html).
    "icelake": {"icelake-client": "icelake-server"},
}
KERNEL_NAMES = {"sse3": "pni"}
"""Names in /proc/cpuinfo, where archspec has other ones."""
NO_INSTRUCTIONS = frozenset({"flush_l1d", "tsc_adjust"})
"""Features that programs cannot use, and that virtual machines often hide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """A compiler's flags for a target; or why it has none, and the nearest target for which it has."""

    target: str
    """The target that was asked for."""
    flags: tuple[str, ...] = ()
    """`-march` and `-mtune`, then options for single features, last those that switch one off (docker/guest/cc);
    empty if the target is impossible."""
    nearest: str = ""
    """If the target is impossible: its best ancestor for which the compiler can produce code."""
    reason: str = ""
    """Why the target is impossible; empty if it is possible."""

    @property
    def possible(self) -> bool:
        """Whether the compiler can produce code for the target."""
        return not self.reason


@lru_cache(maxsize=1)
def _x86() -> dict[str, Microarchitecture]:
    from archspec.cpu import TARGETS  # noqa: PLC0415  # 40 ms that `--help` must not cost

    return {name: t for name, t in TARGETS.items() if t.name == ROOT or any(a.name == ROOT for a in t.ancestors)}


def known() -> frozenset[str]:
    """Return the names of all x86-64 microarchitectures that archspec knows."""
    return frozenset(_x86())


@lru_cache(maxsize=256)
def features(name: str) -> frozenset[str]:
    """Return the features of a microarchitecture and its ancestors, by archspec's names."""
    return frozenset(_x86()[name].features)


def demand(name: str) -> int:
    """Return how demanding code for a microarchitecture is: a number that only serves to compare."""
    return len(features(name))


def runs_on_amd(name: str) -> bool:
    """Return whether CPUs of AMD may run the code for a microarchitecture: all but those of Intel, and unknown ones."""
    micro = _x86().get(name)
    return micro is None or micro.vendor != "GenuineIntel"


@lru_cache(maxsize=256)
def kernel_flags(name: str) -> frozenset[str]:
    """Return the features that compiled code for a microarchitecture may use, as /proc/cpuinfo spells them.

    A machine that lacks others of archspec's features runs it all the same: FSGSBASE, PKU and AMX, which no gate can
    see, and AES where firmware may switch it off and compilers leave it out.
    """
    wanted = features(name) - NO_INSTRUCTIONS - hosts(name).not_asked()
    return frozenset(KERNEL_NAMES.get(feature, feature) for feature in wanted)


def _lineage(name: str) -> list[str]:
    micro = _x86()[name]
    return [micro.name, *(a.name for a in micro.ancestors if a.name in _x86())]


def ancestors(name: str) -> tuple[str, ...]:
    """Return the ancestors of a microarchitecture, the nearest first."""
    return tuple(_lineage(name)[1:])


@lru_cache(maxsize=256)
def hosts(name: str) -> Hosts:
    """Return what is known of the hosts of a microarchitecture."""
    return Hosts(lineage=frozenset(_lineage(name)), features=features(name))


def best(names: Iterable[str]) -> str:
    """Return the microarchitecture with the most features; there must be at least one."""
    # Of equals, the one with the longer lineage is more specific.
    return max(names, key=lambda n: (len(_x86()[n].features), len(_lineage(n)), n))


@lru_cache(maxsize=1024)
def common_target(cpus: Sequence[str]) -> str:
    """Return the best microarchitecture whose code all of `cpus` can run.

    It is a common ancestor whose features are a subset of each CPU's. Ancestry alone is not enough: a CPU that lost a
    feature of its ancestor must not get code that uses it.

    Args:
        cpus: archspec names, at least one; a tuple, because results are cached.
    """
    common = set(_lineage(cpus[0])).intersection(*(_lineage(c) for c in cpus[1:]))
    runnable = [n for n in common if all(features(n) <= features(c) for c in cpus)]
    return best(runnable)


def _flags(name: str, gcc: str) -> tuple[tuple[str, ...], str]:
    from archspec.cpu import UnsupportedMicroarchitecture  # noqa: PLC0415

    # archspec refuses a patch level for some ranges ("12.2.0"), and needs it for gcc 4 ("4.8.5").
    parsed = Version(gcc)
    release = parsed.release
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
    return (*flags, *hosts(name).off(parsed)), ""


@lru_cache(maxsize=1024)
def resolve(target: str, gcc: str) -> Resolution:
    """Return the flags for `target` of a gcc, by its version ("4.8.5", "12.2")."""
    flags, reason = _flags(target, gcc)
    if not reason:
        return Resolution(target=target, flags=flags)
    possible = [n for n in _lineage(target)[1:] if not _flags(n, gcc)[1]]
    return Resolution(target=target, nearest=best(possible), reason=reason)
