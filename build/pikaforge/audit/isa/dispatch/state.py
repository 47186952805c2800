"""The state of a function during its abstract run, and the results of the run."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pikaforge.audit.isa.dispatch import values as v
from pikaforge.audit.isa.dispatch.conditions import Flags
from pikaforge.audit.isa.dispatch.values import UNKNOWN, Value

LOWEST = -(1 << 62)
"""An offset below all others."""
FILE = "file"
"""Base of addresses in the file. A `Frame` has what was written there since the last call of another function."""
COMPARED = 1 << 16
"""In `CpuState.spent`: the bit of the first register whose value was compared."""
Frame = dict[tuple[Hashable, int], tuple[int, Value]]
"""Memory: number of bytes and their value, by base and offset."""


@dataclass(slots=True)
class Summary:
    """What a call of a function does, for its callers."""

    returns: Value | None = None
    """The value in %rax; None if the function never returns."""
    kept: frozenset[int] = frozenset()
    """Registers that have the same value as before: gcc relies on that within a file (-fipa-ra)."""
    out: Frame | None = None
    """What it has written for certain: to what its arguments point to (by number of the argument), and to the file."""


class Exhausted(Exception):
    """The run takes more instructions than its limit."""


class Environment(Protocol):
    """The rest of a function's file, during the function's run."""

    fixed: bool
    """Whether the file has a fixed address, so that immediates and displacements may be addresses."""

    def spend(self, steps: int) -> None:
        """Count instructions that are run.

        Raises:
            Exhausted: they are more than the limit.
        """

    def answer(self, leaf: int | None, part: int | None) -> Mapping[str, int]:
        """Return the bits, by register, that are 0 in CPUID's answer to %eax and %ecx."""

    def load(self, address: int, size: int, *, first: bool) -> Value:
        """Return the value at an address of the file; `first` says that no other function was called yet."""

    def call(self, target: int, arguments: Sequence[Value]) -> Summary | None:
        """Return what a call does; None if that is not known."""

    def names(self, address: int) -> bool:
        """Return whether an address is one of code or data of the file."""


@dataclass(slots=True)
class Trace:
    """All that a function may do."""

    references: set[int] = field(default_factory=set)
    """Addresses of code that it may run or pass on, and of data that it may touch."""
    handed: set[int] = field(default_factory=set)
    """The addresses among them that get out of the function, so that other code may write to data there."""
    steps: set[int] = field(default_factory=set)
    """Addresses of the instructions that it may run."""
    stores: list[tuple[int, int, Value]] = field(default_factory=list)
    """What it may write to the file's data: address, number of bytes and value."""
    summary: Summary = field(default_factory=Summary)

    def add(self, other: Trace) -> None:
        """Add what the function may do in another run."""
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
    """Registers and memory at one point of a function."""

    registers: list[Value]
    frame: Frame = field(default_factory=dict)
    flags: Flags = None
    escaped: dict[Hashable, int] = field(default_factory=dict)
    """The lowest offset to which other code has a pointer, by base."""
    called: bool = False
    """Whether another function was called, which may have written to the file's data."""
    spent: int = 0
    """Registers, one bit each, whose value a conditional move has not taken: it is a leftover, and no argument. From
    `COMPARED` on those whose value was compared: at a return, too, it is a leftover."""

    def copy(self) -> CpuState:
        """Return a copy."""
        return CpuState(list(self.registers), dict(self.frame), self.flags, dict(self.escaped), self.called, self.spent)

    def leftover(self, register: int) -> bool:
        """Return whether a register holds no address, or a leftover, when the function returns."""
        return bool(not self.registers[register][3] or self.spent & (1 | COMPARED) << register)

    def escape(self, value: Value) -> None:
        """Record that other code gets a value, which may be a pointer."""
        base, place = value[0], v.offset(value)
        if base is not None:
            low = LOWEST if place is None else place
            self.escaped[base] = min(low, self.escaped.get(base, low))

    def forget_escaped(self) -> None:
        """Forget all memory to which other code has pointers, because it may have been written."""
        for base, low in self.escaped.items():
            forget(self.frame, base, low)


def both(a: Frame, b: Frame) -> Frame:
    """Return the memory that is known in both, with values that stand for both."""
    return {key: (n, v.join(value, b[key][1])) for key, (n, value) in a.items() if key in b and b[key][0] == n}


def held(frame: Frame, base: Hashable, at: int, size: int) -> Value:
    """Return the value of `size` bytes of memory."""
    found = frame.get((base, at))
    if found is None or found[0] < size:
        return UNKNOWN
    return v.low(found[1], size) if size < 8 else found[1]


def keep(frame: Frame, base: Hashable, at: int, size: int, value: Value) -> None:
    """Write a value to memory, and forget all values that overlap it."""
    for key in [k for k, (s, _) in frame.items() if k[0] == base and k[1] < at + size and at < k[1] + s]:
        del frame[key]
    frame[base, at] = (size, value)


def forget(frame: Frame, base: Hashable, lowest: int | None) -> None:
    """Forget the memory of a base from an offset on; None: all of it."""
    for key in [k for k, (s, _) in frame.items() if k[0] == base and (lowest is None or k[1] + s > lowest)]:
        del frame[key]
