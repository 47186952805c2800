"""Judge the compiler flags of a tree, as its debug information records them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pikaforge.audit.finding import LineRecord

if TYPE_CHECKING:
    from pikaforge.audit.elf.facts import ElfFacts

_MARCH = re.compile(r"(?:^|\s)-march=(\S+)")
_MTUNE = re.compile(r"(?:^|\s)-mtune=(\S+)")
# gcc's driver replaces `native` before it runs the compiler, and adds the sizes of the caches, which nothing else does
# (gcc/config/i386/driver-i386.cc).
_NATIVE = re.compile(r"-m(?:arch|tune|cpu)=native\b|--param[= ]l[12]-cache-(?:size|line-size)=")
DEFAULT_MARCH = "x86-64"
"""The default of every gcc for x86-64 (gcc/config.gcc), for which the objects in libgcc are compiled, too: a program
that is linked with -ffast-math gets such a unit from Debian's crtfastmath.o. Every CPU can run it."""
_ASSEMBLER = re.compile(r"^GNU AS\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitGroup:
    """Compile units of one file with the same flags."""

    file: str
    own: bool
    march: str
    """Empty where the compiler recorded none."""
    mtune: str
    native: bool
    count: int
    example: str
    """The source file of one of the units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagVerdict:
    """The verdict on the flags of a tree."""

    units: tuple[UnitGroup, ...]
    dropped: tuple[tuple[int, str], ...]
    """How often the compiler wrapper dropped which flag."""
    violations: tuple[LineRecord, ...]
    notes: tuple[str, ...]


def march_of(flags: Sequence[str]) -> str:
    """Return the last -march of some flags, which is the one that the compiler obeys."""
    return next((f.partition("=")[2] for f in reversed(flags) if f.startswith("-march=")), "")


def judge(
    facts: Sequence[ElfFacts],
    *,
    own: frozenset[str],
    march: str = "",
    dropped: Sequence[tuple[int, str]] = (),
) -> FlagVerdict:
    """Judge the flags of a tree's files.

    Args:
        facts: the files, with their debug information.
        own: files that were compiled here; the flags of others are only noted.
        march: the -march of units that were compiled here; empty: anything but native.
        dropped: the compiler wrapper's count of dropped flags.
    """
    units: list[UnitGroup] = []
    violations: list[LineRecord] = []
    notes: list[str] = []
    for fact in facts:
        mine = fact.name in own
        if fact.debug.problem:
            notes.append(f"{fact.name}: {fact.debug.problem}")
        elif not fact.debug.present and mine:
            notes.append(f"{fact.name}: no debug information, so its flags are not known")
        for group in _units(fact, mine):
            units.append(group)
            what = _wrong(group, march)
            if not what:
                continue
            which = f"{group.count} units, such as {group.example or '?'}, {what}"
            if mine and (group.native or group.march != DEFAULT_MARCH):
                violations.append(LineRecord(where=fact.name, what=which, do=_remedy(group)))
            else:
                notes.append(
                    f"{fact.name}: {which}; built elsewhere, as the compiler's own objects are, and judged by its code"
                )
    return FlagVerdict(units=tuple(units), dropped=tuple(dropped), violations=tuple(violations), notes=tuple(notes))


def _units(fact: ElfFacts, own: bool) -> list[UnitGroup]:
    """Return the units of one file, grouped by -march, -mtune and whether they are native.

    Units of assembler files are left out: they have no such flags.
    """
    found: dict[tuple[str, str, bool], UnitGroup] = {}
    for producer in fact.debug.producers:
        if _ASSEMBLER.match(producer.text):
            continue
        march, mtune = _MARCH.findall(producer.text), _MTUNE.findall(producer.text)
        key = (march[-1] if march else "", mtune[-1] if mtune else "", bool(_NATIVE.search(producer.text)))
        old = found.get(key)
        found[key] = UnitGroup(
            file=fact.name,
            own=own,
            march=key[0],
            mtune=key[1],
            native=key[2],
            count=producer.units + (old.count if old else 0),
            example=old.example if old else producer.example,
        )
    return list(found.values())


def _wrong(group: UnitGroup, march: str) -> str:
    if group.native:
        cpu = f": this build host is a {group.march}" if group.march not in ("", "native") else ""
        return f"were compiled for the machine that built them (-march=native or -mtune=native{cpu})"
    if march and group.march and group.march != march:
        return f"were compiled with -march={group.march} instead of {march}"
    return ""


def _remedy(group: UnitGroup) -> str:
    if group.native:
        return "the compiler wrapper was bypassed: is a compiler called by its path? take -march=native out of the tree"
    return "the compiler wrapper was bypassed, or the unit comes from a library that was linked in: build that one, too"
