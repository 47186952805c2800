"""What is known of a function while it is run, and what is kept of it afterwards."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pikaforge.audit.isa.dispatch import values as v
from pikaforge.audit.isa.dispatch.conditions import Flags
from pikaforge.audit.isa.dispatch.values import UNKNOWN, Value

LOWEST = -(1 << 62)
"""Below every offset."""
FILE = "file"
"""Base of addresses in the file: what was written there, until another function may have written."""
Frame = dict[tuple[Hashable, int], tuple[int, Value]]
"""Memory by base and offset: bytes and value."""


@dataclass(slots=True)
class Summary:
    """What a call of a function does, as far as a caller can tell."""

    returns: Value | None = None
    """What is in %rax; None if it never comes back."""
    kept: frozenset[int] = frozenset()
    """Registers that are afterwards as they were: gcc counts on it within a file (-fipa-ra)."""
    out: Frame | None = None
    """What it leaves for certain in what its arguments point to, by number of the argument, and in the file."""


class Exhausted(Exception):
    """More was run than is worth it."""


class Environment(Protocol):
    """What a function sees of the rest of its file."""

    def spend(self, steps: int) -> None:
        """Take down how much is run.

        Raises:
            Exhausted: it is too much.
        """

    def answer(self, leaf: int | None, part: int | None) -> Mapping[str, int]:
        """Bits by register that CPUID does not set in its answer to %eax and %ecx."""

    def load(self, address: int, size: int, *, first: bool) -> Value:
        """What is in memory at an address of the file; `first`: no other function was called yet."""

    def call(self, target: int, arguments: Sequence[Value]) -> Summary | None:
        """What a call does; None if that is not known."""

    def names(self, address: int) -> bool:
        """Whether an address is that of code or data of the file."""


@dataclass(slots=True)
class Trace:
    """What a function may do."""

    references: set[int] = field(default_factory=set)
    """Addresses of code that it may go to or hand on, and of data that it may touch."""
    handed: set[int] = field(default_factory=set)
    """Of those, addresses of data that others may write to from then on."""
    steps: set[int] = field(default_factory=set)
    """Addresses of the instructions that it may run."""
    stores: list[tuple[int, int, Value]] = field(default_factory=list)
    """Address in the file, bytes and value of what it may write."""
    summary: Summary = field(default_factory=Summary)

    def add(self, other: Trace) -> None:
        """Take in what it may do otherwise."""
        self.references |= other.references
        self.handed |= other.handed
        self.steps |= other.steps
        self.stores += other.stores
        mine, theirs = self.summary, other.summary
        if theirs.returns is None:
            return
        if mine.returns is None:
            self.summary = theirs
            return
        self.summary = Summary(
            returns=v.join(mine.returns, theirs.returns),
            kept=mine.kept & theirs.kept,
            out=both(mine.out or {}, theirs.out or {}),
        )


@dataclass(slots=True)
class CpuState:
    registers: list[Value]
    frame: Frame = field(default_factory=dict)
    flags: Flags = None
    escaped: dict[Hashable, int] = field(default_factory=dict)
    """The lowest offset by base that others hold a pointer to."""
    called: bool = False
    """Whether another function has been called, which may have written to the file's data."""
    spent: int = 0
    """Registers, a bit each, whose value a conditional move has not taken: what remains there is no argument."""

    def copy(self) -> CpuState:
        return CpuState(list(self.registers), dict(self.frame), self.flags, dict(self.escaped), self.called, self.spent)

    def escape(self, value: Value) -> None:
        """Another function gets a pointer."""
        base, place = value[0], v.offset(value)
        if base is not None:
            low = LOWEST if place is None else place
            self.escaped[base] = min(low, self.escaped.get(base, low))

    def forget_escaped(self) -> None:
        """Something was written to where others have pointers to."""
        for base, low in self.escaped.items():
            forget(self.frame, base, low)


def both(a: Frame, b: Frame) -> Frame:
    """What holds in either."""
    return {key: (n, v.join(value, b[key][1])) for key, (n, value) in a.items() if key in b and b[key][0] == n}


def held(frame: Frame, base: Hashable, at: int, size: int) -> Value:
    found = frame.get((base, at))
    if found is None or found[0] < size:
        return UNKNOWN
    return v.low(found[1], size) if size < 8 else found[1]


def keep(frame: Frame, base: Hashable, at: int, size: int, value: Value) -> None:
    """Write to the frame; what overlaps is gone."""
    for key in [k for k, (s, _) in frame.items() if k[0] == base and k[1] < at + size and at < k[1] + s]:
        del frame[key]
    frame[base, at] = (size, value)


def forget(frame: Frame, base: Hashable, lowest: int | None) -> None:
    for key in [k for k, (s, _) in frame.items() if k[0] == base and (lowest is None or k[1] + s > lowest)]:
        del frame[key]
