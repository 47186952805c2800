"""The features that a target's code may use: those that the compiler's own macros and the table of features agree on.

Compilers are wrong about hosts: gcc 12 gives VP2INTERSECT to sapphirerapids, and FSGSBASE to haswell, which faults
before Linux 5.9. The table (`cpu.assumptions`) takes such features away; only a waiver admits them.

archspec is only the second source. It lacks features that gcc enables (xsave on sandybridge), and lists some that gcc
leaves out (aes there, which is switched off in some of these CPUs). A feature that only archspec gives to the target,
or that firmware or microcode switches off on some of its hosts, is a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pikaforge.cpu import microarch
from pikaforge.cpu.assumptions import Hosts
from pikaforge.cpu.features import Feature, table
from pikaforge.errors import HostError

_DEFINE = re.compile(r"^#define (\w+)")
_ONLY_ARCHSPEC = "archspec gives it to {target}, the compiler does not: not all of these CPUs have it"
_GCC_VERSION = re.compile(r"\d{1,9}(\.\d{1,9})*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """The features that a target's code may use, by id."""

    target: str
    sure: frozenset[str]
    """Features that every x86-64 CPU can run, and those that the compiler uses for the target."""
    doubtful: frozenset[str]
    """Features that only archspec gives to the target, or that can be switched off: some of its hosts may lack them."""
    source: str
    """The origin of the list, for reports."""
    warning: str = ""
    objections: Mapping[str, str] = field(default_factory=dict)
    """Why code may not simply use a feature that the compiler or archspec gives to the target, by id: of the doubtful
    ones, and of those that the table refuses."""

    @property
    def refused(self) -> dict[str, str]:
        """The features that the compiler or archspec gives to the target and the table refuses, with the reason."""
        return {name: why for name, why in self.objections.items() if name not in self.doubtful}


def free() -> frozenset[str]:
    """Return the features that every x86-64 CPU has or treats as no-ops."""
    return frozenset(f.id for f in table().values() if f.free)


def of_baseline(name: str) -> frozenset[str]:
    """Return the features that a distribution's code may use on any CPU, by the archspec name of its baseline."""
    hosts = microarch.hosts(name)
    return free() | {
        f.id
        for f in table().values()
        if (_in_archspec(f, hosts) or _by_lineage(f, hosts)) and hosts.standing(f) == "assumed"
    }


def from_macros(lines: Iterable[str], target: str, *, source: str = "compiler's macros") -> Allowed:
    """Return the allow-list by the macros that a compiler predefines for the target.

    Args:
        lines: of `gcc FLAGS -dM -E`, such as `#define __AVX__ 1`.
        target: archspec name of the target, for the doubtful features.
        source: the origin of the lines, for reports.
    """
    macros = {m.group(1) for line in lines if (m := _DEFINE.match(line))}
    given = {f.id for f in table().values() if f.gcc in macros} if macros else set()
    return _allowed(target, given, source, "" if macros else "the list of the compiler's macros is empty")


def from_archspec(target: str, *, warning: str) -> Allowed:
    """Return the allow-list without a compiler: archspec's features count as sure."""
    hosts = microarch.hosts(target)
    given = {f.id for f in table().values() if _in_archspec(f, hosts)}
    return _allowed(target, given, "archspec's feature table", warning)


def from_gcc(target: str) -> Allowed:
    """Return the allow-list by this machine's gcc; by archspec if there is no gcc that knows the target."""
    from pikaforge.host import process  # noqa: PLC0415

    if process.find("gcc") is None:
        return from_archspec(target, warning="there is no gcc here to ask for the features of the target")
    try:
        version = process.run(["gcc", "-dumpfullversion", "-dumpversion"]).text().strip()
        if not _GCC_VERSION.fullmatch(version):
            return from_archspec(target, warning=f"this machine's gcc does not say which it is: {version[:40]!r}")
        resolution = microarch.resolve(target, version)
        if not resolution.possible:
            return from_archspec(target, warning=f"this machine's {resolution.reason}")
        asked = process.run(["gcc", *resolution.flags, "-dM", "-E", "-x", "c", "/dev/null"])
    except HostError as error:
        return from_archspec(target, warning=f"gcc does not answer: {error.message}")
    if asked.status != 0:
        return from_archspec(target, warning=f"this machine's gcc {version} refuses {' '.join(resolution.flags)}")
    return from_macros(
        asked.text().splitlines(), target, source=f"macros of gcc {version} {' '.join(resolution.flags)}"
    )


def _allowed(target: str, given: set[str], source: str, warning: str) -> Allowed:
    """Return the allow-list by the features that a source gives to the target."""
    hosts = microarch.hosts(target)
    sure, doubtful, objections = set(), set(), {}
    for feature in table().values():
        certain = feature.id in given or _by_lineage(feature, hosts)
        # A feature whose instructions run as other ones on older CPUs needs a sure source.
        likely = _in_archspec(feature, hosts) and feature.policy != "dangerous"
        standing = hosts.standing(feature)
        if feature.free or (certain and standing == "assumed"):
            sure.add(feature.id)
        elif certain or likely:
            objections[feature.id] = hosts.objection(feature) or _ONLY_ARCHSPEC.format(target=target)
            if standing != "refused":
                doubtful.add(feature.id)
    return Allowed(
        target=target,
        sure=frozenset(sure),
        doubtful=frozenset(doubtful),
        source=source,
        warning=warning,
        objections=objections,
    )


def _in_archspec(feature: Feature, hosts: Hosts) -> bool:
    return bool(feature.archspec) and feature.archspec in hosts.features


def _by_lineage(feature: Feature, hosts: Hosts) -> bool:
    """Return whether the lineage alone decides, because no macro shows the feature (RDTSCP)."""
    return not feature.gcc and not hosts.lineage.isdisjoint(feature.lineages)
