"""The features that a target's code may use: those that the compiler uses for it, by its own macros.

archspec is only the second source. It lacks features that gcc enables (xsave on sandybridge), and lists some that gcc
leaves out (aes there, which is switched off in some of these CPUs). A feature that only archspec gives to the target is
a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pikaforge.cpu import microarch
from pikaforge.cpu.features import Feature, table
from pikaforge.errors import HostError

_DEFINE = re.compile(r"^#define (\w+)")
_GCC_VERSION = re.compile(r"\d{1,9}(\.\d{1,9})*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """The features that a target's code may use, by id."""

    target: str
    sure: frozenset[str]
    """Features that every x86-64 CPU can run, and those that the compiler uses for the target."""
    doubtful: frozenset[str]
    """Features that only archspec gives to the target: some of its CPUs may lack them."""
    source: str
    """The origin of the list, for reports."""
    warning: str = ""


def free() -> frozenset[str]:
    """Return the features that every x86-64 CPU has or treats as no-ops."""
    return frozenset(f.id for f in table().values() if f.free)


def of_baseline(name: str) -> frozenset[str]:
    """Return the features that a distribution's code may use on any CPU, by the archspec name of its baseline."""
    known = microarch.features(name)
    return free() | {f.id for f in table().values() if f.archspec and f.archspec in known}


def from_macros(lines: Iterable[str], target: str, *, source: str = "compiler's macros") -> Allowed:
    """Return the allow-list by the macros that a compiler predefines for the target.

    Args:
        lines: of `gcc FLAGS -dM -E`, such as `#define __AVX__ 1`.
        target: archspec name of the target, for the doubtful features.
        source: the origin of the lines, for reports.
    """
    macros = {m.group(1) for line in lines if (m := _DEFINE.match(line))}
    sure = {f.id for f in table().values() if f.gcc in macros} if macros else set()
    return _allowed(target, sure, source, "" if macros else "the list of the compiler's macros is empty")


def from_archspec(target: str, *, warning: str) -> Allowed:
    """Return the allow-list without a compiler: archspec's features count as sure."""
    known = microarch.features(target)
    sure = {f.id for f in table().values() if f.archspec and f.archspec in known}
    return _allowed(target, sure, "archspec's feature table", warning)


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


def _allowed(target: str, sure: set[str], source: str, warning: str) -> Allowed:
    lineage = {target, *microarch.ancestors(target)}
    sure |= {f.id for f in table().values() if lineage.intersection(f.lineages)}
    known = microarch.features(target)
    doubtful = {f.id for f in table().values() if _in_archspec(f, known)} - sure
    return Allowed(
        target=target, sure=frozenset(sure | free()), doubtful=frozenset(doubtful), source=source, warning=warning
    )


def _in_archspec(feature: Feature, known: frozenset[str]) -> bool:
    # A feature whose instructions run as other ones on older CPUs needs a sure source.
    return bool(feature.archspec) and feature.archspec in known and feature.policy != "dangerous"
