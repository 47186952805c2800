"""The table of instruction features (`features.csv`), and of functions that are known to check for them (`guards.csv`).

A feature's id is its name in iced-x86 in lower case (`avx2`, `lzcnt`). iced gives features by opcode. If an instruction
of a feature differs from the others, the table has a line for it, `FEATURE/INSTRUCTION`, whose id is the instruction's
name (`BMI1/TZCNT` is `tzcnt`). Policies:

- `baseline`: every x86-64 CPU has it;
- `ignored`: CPUs without it treat its instructions as no-ops;
- `judged`: allowed where the target has it;
- `guarded`: as judged, and also allowed in the functions that `guards.csv` names, which ask the CPU first;
- `dangerous`: CPUs without it run another instruction instead, without a trap and with another result.

The columns `lineages`, `absent` and `linux` say which hosts have a feature, and whether the CPU gate can tell. Code for
a target may assume what the compiler and these columns agree on (`assumptions`).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, cast, get_args

from packaging.version import Version

Policy = Literal["baseline", "ignored", "judged", "guarded", "dangerous"]
FOLDER = Path(__file__).parent
TABLES = (
    *("features.csv", "guards.csv", "dispatchers.csv", "forcing_variables.csv"),
    *("go_dispatchers.csv", "go_readers.csv"),
)
"""All tables beside this module: verdicts depend on them."""
STEM = re.compile(
    r"(.+?)(?:\.(?:cold|part|isra|constprop|lto_priv|localalias)(?:\.\d+)*)*(?:@{1,2}[A-Za-z][A-Za-z0-9_.]*)?",
    re.DOTALL,
)
"""Finds the name of a function in that of its symbol: gcc appends names to parts and copies of functions
(clone_function_name in gcc/cgraphclones.cc), and ld the version of a symbol."""
NAME_LIMIT = 256
"""Letters of a function's name, of which the table has none that is as long."""
INVALID = "invalid"
"""The id for bytes that are no instruction; always judged."""
SHORT_OPERAND = "branch66"
"""The id for branches with an operand-size prefix: Intel's CPUs ignore it, AMD's take an offset of 16 bits (AMD APM
vol. 3, "Jcc"; Intel SDM vol. 2A, "Jcc")."""
Cause = Literal["firmware", "hypervisor", "microcode", "kernel", "privilege"]
"""What may take a feature from a host whose CPU has it. `kernel`: the instructions fault under kernels that show its
flag; `privilege`: they fault in every program. The others clear its bit in CPUID, so that its flag is not shown."""
NEVER = "never"
"""In the column `linux`: no version supports it, or none still does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuidBit:
    """A bit of CPUID's answer."""

    leaf: int
    """The value of %eax in the question."""
    part: int | None
    """The value of %ecx in the question; None where CPUID ignores it."""
    register: str
    """`eax`, `ebx`, `ecx` or `edx`."""
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GccOption:
    """The option `-mNAME` of gcc for a feature, with the versions that know it."""

    name: str
    """Without `-m` or `-mno-`."""
    since: Version
    until: int | None
    """The last major version that knows it; None if it is still known."""

    def off(self, gcc: Version) -> str:
        """Return `-mno-NAME`; empty where this gcc does not know it."""
        known = gcc >= self.since and (self.until is None or gcc.major <= self.until)
        return f"-mno-{self.name}" if known else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """What may take a feature from hosts whose CPU has it."""

    cause: Cause
    lineage: str
    """Only on this microarchitecture and its descendants; empty: on all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One line of the table."""

    id: str
    iced: str
    """Name in iced's CpuidFeature."""
    instruction: str
    """Beginning of the names in iced's Code that the line is for; empty for all that have no line of their own."""
    kernel: str
    """Its name in /proc/cpuinfo; empty where the kernel does not show it."""
    gcc: str
    """The macro that gcc predefines if it may use the feature; empty where there is none."""
    option: GccOption | None
    """gcc's option for it; only where some gcc gives it to a target that must not assume it."""
    given: tuple[str, ...]
    """The microarchitectures that such a gcc gives it to, as to all their descendants."""
    archspec: str
    """Its name in archspec; empty where archspec has none."""
    lineages: tuple[str, ...]
    """Microarchitectures that have it, as all their descendants do, beside those of archspec."""
    used_from: tuple[str, ...]
    """Microarchitectures from which on compilers use it; empty: they use it wherever CPUs have it."""
    absent: tuple[Absence, ...]
    """What may take it from hosts whose CPU has it."""
    linux: str
    """The first Linux that shows its flag and lets programs run it, `never`, or empty: not known to be later than 3.10.

    A kernel that does not show a flag is refused by the CPU gate, as a CPU without the feature is."""
    cpuid: tuple[CpuidBit, ...]
    """Bits of CPUID that are clear on a CPU without it (Intel SDM vol. 2A CPUID, AMD APM vol. 3 app. E); empty where
    CPUID does not show it."""
    needs: tuple[str, ...]
    """Ids of features that every CPU with this one has: code that checks for this one need not check for these (Intel
    SDM vol. 1 ch. 12 to 18; of LZCNT: every CPU with BMI2, from Haswell, Excavator and Zen on)."""
    policy: Policy
    reason: str
    """The reason of the policy, with a source."""

    @property
    def free(self) -> bool:
        """Whether every x86-64 CPU can run its instructions."""
        return self.policy in ("baseline", "ignored")

    @property
    def ungated(self) -> str:
        """The reason why the CPU gate cannot tell whether a program may run it; empty if the gate can."""
        causes = {absence.cause for absence in self.absent}
        if self.free:
            return ""
        if "privilege" in causes:
            return "it is privileged, and faults in every program"
        if self.linux == NEVER:
            return "Linux has no support for it"
        if "kernel" in causes:
            return (
                f"it faults under kernels before Linux {self.linux} or set up otherwise, whatever /proc/cpuinfo shows"
            )
        return "" if self.kernel else "/proc/cpuinfo has no flag for it"

    def switched_off(self, lineage: Iterable[str]) -> tuple[Cause, ...]:
        """Return what may take it from hosts with CPUs of a lineage, in a way that the CPU gate sees."""
        places = {"", *lineage}
        return tuple(a.cause for a in self.absent if a.cause in ("firmware", "microcode") and a.lineage in places)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """A function that is known to ask the CPU before it uses some features."""

    function: str
    """Name of its symbol, without what a compiler or linker appends to it (`STEM`)."""
    features: frozenset[str]
    reason: str


@lru_cache(maxsize=1)
def table() -> dict[str, Feature]:
    """Return all features by id."""
    found: dict[str, Feature] = {}
    for row in rows("features.csv"):
        iced, _, instruction = row["iced"].partition("/")
        assert row["policy"] in get_args(Policy), row
        feature = Feature(
            id=(instruction or iced).lower(),
            iced=iced,
            instruction=instruction,
            kernel=row["kernel"],
            gcc=row["gcc"],
            option=_option(row["option"]) if row["option"] else None,
            given=tuple(row["given"].split()),
            archspec=row["archspec"],
            lineages=tuple(row["lineages"].split()),
            used_from=tuple(row["used_from"].split()),
            absent=tuple(_absence(text) for text in row["absent"].split()),
            linux=row["linux"],
            cpuid=tuple(_bit(text) for text in row["cpuid"].split()),
            needs=tuple(row["needs"].split()),
            policy=cast(Policy, row["policy"]),
            reason=row["reason"],
        )
        assert feature.id not in found, feature.id
        found[feature.id] = feature
    return found


def _option(text: str) -> GccOption:
    """Return an option from its text, `NAME@SINCE` or `NAME@SINCE-UNTIL`, such as `mpx@5-8`."""
    name, _, versions = text.partition("@")
    since, _, until = versions.partition("-")
    return GccOption(name=name, since=Version(since), until=int(until) if until else None)


def _absence(text: str) -> Absence:
    """Return an absence from its text, `CAUSE` or `CAUSE:LINEAGE`, such as `firmware:westmere`."""
    cause, _, lineage = text.partition(":")
    assert cause in get_args(Cause), text
    return Absence(cause=cast(Cause, cause), lineage=lineage)


def _bit(text: str) -> CpuidBit:
    """Return a bit from its text, `LEAF.PART.REGISTER.NUMBER`, such as `7.0.ebx.5`.

    Leaf and part are hexadecimal; the part is left out where CPUID ignores it.
    """
    leaf, *part, register, number = text.split(".")
    assert register in ("eax", "ebx", "ecx", "edx"), text
    return CpuidBit(leaf=int(leaf, 16), part=int(part[0], 16) if part else None, register=register, number=int(number))


@lru_cache(maxsize=256)
def needing(feature: str) -> frozenset[str]:
    """Return a feature and all features that need it, directly or not: a CPU without it has none of them."""
    found = {feature} & table().keys()
    while more := {f.id for f in table().values() if found.intersection(f.needs)} - found:
        found |= more
    return frozenset(found)


def absent_bits(feature: str) -> dict[tuple[int, int | None], dict[str, int]]:
    """Return the bits of CPUID's answers that are 0 on a CPU without a feature, by leaf, part and register.

    They include the bits of all features that need this one: for AVX, also those of AVX2, because no CPU has AVX2
    without AVX. So code that checks for AVX2 may use AVX.
    """
    found: dict[tuple[int, int | None], dict[str, int]] = {}
    for name in needing(feature):
        for bit in table()[name].cpuid:
            register = found.setdefault((bit.leaf, bit.part), {})
            register[bit.register] = register.get(bit.register, 0) | 1 << bit.number
    return found


def zero_bits(
    absent: Mapping[tuple[int, int | None], Mapping[str, int]], leaf: int | None, part: int | None
) -> Mapping[str, int]:
    """Return the bits, by register, that are 0 in CPUID's answer to %eax and %ecx; `absent` is from `absent_bits`."""
    if leaf is None:
        return {}
    return absent.get((leaf, None)) or absent.get((leaf, part)) or {}


@lru_cache(maxsize=1)
def guards() -> tuple[Guard, ...]:
    """Return all guards."""
    return tuple(
        Guard(function=r["function"], features=frozenset(r["features"].split()), reason=r["reason"])
        for r in rows("guards.csv")
    )


def guarded(function: str, feature: str) -> str:
    """Return the reason why `function` may use `feature` on any CPU; empty if none is known."""
    found = STEM.fullmatch(function) if len(function) < NAME_LIMIT else None
    stem = found[1] if found is not None else function
    return next((g.reason for g in guards() if feature in g.features and g.function == stem), "")


def kernel_flags(ids: Iterable[str]) -> tuple[str, ...]:
    """Return the flags that /proc/cpuinfo shows for features, sorted; features without a flag are left out."""
    return tuple(sorted({table()[i].kernel for i in ids if i in table() and table()[i].kernel}))


def ungated(ids: Iterable[str]) -> dict[str, str]:
    """Return those features that the CPU gate cannot tell, by id, sorted, each with the reason."""
    return {i: why for i in sorted(ids) if i in table() and (why := table()[i].ungated)}


def rows(name: str) -> Iterator[dict[str, str]]:
    """Yield the lines of a table."""
    with (FOLDER / name).open(encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream)
