"""Find out which registers of a function surely hold no zero, at each of its instructions.

The code is decoded from the function's start, along jumps out of the function, too: gcc puts unlikely code elsewhere,
which jumps back. Targets of jumps through a table are read from the table. Then values are followed along all ways:

- A value is known to be non-zero after a branch that says so (`test %eax,%eax; je`), or by the instruction that makes
  it (`or $256,%eax`). Registers that are copies of each other share a value.
- Where ways meet, only what holds on all of them is kept. At a place that nothing visible leads to, nothing is known.
- After a call nothing is known, because ABIs differ in what a call may change.

What is assumed: other code enters the function only at its start, or through what the function itself leads to; and a
handler of exceptions is not also reached by a jump.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pikaforge.audit.elf.facts import Region
from pikaforge.audit.elf.layout import Buffer, Layout
from pikaforge.audit.isa.dispatch.steps import NONE, RIP, InstructionStep, Operand, body

STEPS = 6000
"""Instructions of a function that are read; of longer ones nothing is known."""
PIECE_BYTES, PART_BYTES = 32 << 10, 128
"""Bytes of a function that are read, and bytes that are read at once where a jump leads out of it."""
ENTRIES = 2048
"""Entries of a table of jumps that are read."""
ROUNDS = 24
"""How often a block is followed at most, on average."""
GENERAL = range(16)
WIDTHS = (8, 16, 32, 64)
SHIFTS = frozenset({"SHL", "SHR", "SAR", "ROL", "ROR"})
RESULTS = frozenset({"AND", "OR", "XOR", "ADD", "SUB", "INC", "DEC", "NEG"})
"""Instructions whose flags are those of the result."""
LOGIC = frozenset({"TEST", "AND", "OR", "XOR"})
Name = tuple[str, int, int]
"""What a value is called: how it came, at which address, in which register."""


class Value(NamedTuple):
    """What a register holds: the low bits of a named value, extended. It is zero if they are."""

    name: Name
    bits: int


class Flags(NamedTuple):
    """What the flags say of some values."""

    kind: Literal["result", "mask", "compare"]
    """`result`: of one value, as TEST of it with itself. `mask`: of an AND of values, which is none of them.
    `compare`: of a comparison with a number."""
    values: tuple[Value, ...]
    bits: int
    number: int = 0
    signed: bool = False
    """Whether the sign is that of the value, and nothing has overflowed."""


@dataclass(slots=True)
class Knowledge:
    """What is known before an instruction."""

    registers: list[Value]
    facts: frozenset[tuple[Name, int]] = frozenset()
    """Values of which some low bits are not all zero."""
    flags: Flags | None = None

    def copy(self) -> Knowledge:
        """Return a copy, which can be changed."""
        return Knowledge(list(self.registers), self.facts, self.flags)

    def sure(self, value: Value, bits: int) -> bool:
        """Return whether the low bits of a value are not all zero."""
        least = min(bits, value.bits)
        return any((value.name, width) in self.facts for width in WIDTHS if width <= least)

    def add(self, value: Value, bits: int) -> None:
        """Note that the low bits of a value are not all zero."""
        self.facts |= {(value.name, min(bits, value.bits))}


class Code:
    """The code of a file by virtual address."""

    def __init__(self, data: Buffer, layout: Layout, regions: Iterable[Region]) -> None:
        self._data = data
        self._layout = layout
        self._regions = tuple(regions)

    def read(self, start: int, size: int) -> bytes:
        """Return at most `size` bytes of code from an address on; none where there is no code."""
        for region in self._regions:
            if region.address <= start < region.address + region.size:
                at = region.offset + start - region.address
                return self._data[at : min(at + size, region.offset + region.size)]
        return b""

    def holds(self, address: int) -> bool:
        """Return whether there is code at an address."""
        return any(r.address <= address < r.address + r.size for r in self._regions)

    def table(self, address: int, size: int) -> Iterator[int]:
        """Yield the addresses in a table of jumps: of 4 bytes relative to the table, or of 8 bytes."""
        at = self._layout.offset_of(address)
        if at is None:
            return
        raw = self._data[at : at + ENTRIES * size]
        for (entry,) in struct.iter_unpack("<i" if size == 4 else "<Q", raw[: len(raw) // size * size]):
            target = entry + address if size == 4 else entry
            if not self.holds(target):
                return
            yield target


@dataclass(slots=True)
class FunctionGraph:
    """The instructions of a function, and what may follow each of them."""

    steps: dict[int, InstructionStep] = field(default_factory=dict)
    roots: set[int] = field(default_factory=set)
    """Addresses that may be reached from where nothing is known of."""
    before: dict[int, set[int]] = field(default_factory=dict)
    """Addresses of the instructions that may precede one, for those where ways meet or a branch leads to."""
    known: bool = True
    """Whether all ways are known; a jump may lead anywhere otherwise."""


def following(step: InstructionStep) -> tuple[int, ...]:
    """Return the addresses that an instruction leads to within its function; after a branch first its target."""
    if step.flow == "branch":
        return step.target, step.following
    if step.flow == "jump":
        return (step.target,)
    return (step.following,) if step.flow in ("next", "call", "call?") else ()


def read_graph(code: Code, start: int, end: int) -> FunctionGraph:
    """Read a function that lies at [start, end)."""
    graph = FunctionGraph()
    if end - start > PIECE_BYTES:
        graph.known = False
        return graph
    graph.steps.update((s.address, s) for s in body(code.read(start, end - start), start).steps if s.name != "INVALID")
    waiting = list(graph.steps.values())
    while waiting:
        step = waiting.pop()
        targets = following(step) if step.flow in ("jump", "branch") or not start <= step.address < end else ()
        for target in targets:
            if target not in graph.steps and len(graph.steps) < STEPS:
                waiting += _part(code, graph, target)
    graph.known = len(graph.steps) < STEPS
    _tables(code, graph)
    for step in graph.steps.values():
        for target in following(step):
            graph.before.setdefault(target, set()).add(step.address)
        if step.flow == "call":
            graph.roots.add(step.target)
    graph.roots |= {start, *(address for address in graph.steps if address not in graph.before)}
    return graph


def _part(code: Code, graph: FunctionGraph, start: int) -> list[InstructionStep]:
    """Add the instructions from an address to the next one that leads away; return them."""
    added = []
    for step in body(code.read(start, PART_BYTES), start).steps:
        if step.name == "INVALID" or step.address in graph.steps:
            break
        graph.steps[step.address] = step
        added.append(step)
        if step.flow not in ("next", "branch", "call", "call?"):
            break
    return added


def _tables(code: Code, graph: FunctionGraph) -> None:
    """Add the targets of jumps through tables to the roots."""
    jumps = [s for s in graph.steps.values() if s.flow == "jump?" and _through_table(s)]
    if not jumps:
        return
    tables = set()
    for step in graph.steps.values():
        for operand in step.operands:
            if operand.kind == "m" and operand.register == RIP:
                if step.name == "LEA" and operand.index_register == NONE:
                    tables |= {(operand.value, 4), (operand.value, 8)}
                elif operand.index_register != NONE and operand.scale == 8:
                    tables.add((operand.value & 0xFFFFFFFF, 8))
    found: set[int] = set()
    for address, size in tables:
        found |= {target for target in code.table(address, size) if target in graph.steps}
    graph.roots |= found
    if not found and (tables or any(s.operands[0].kind == "m" for s in jumps)):
        graph.known = False


def _through_table(step: InstructionStep) -> bool:
    """Return whether an indirect jump may go through a table: others are calls at the end of a function."""
    return bool(step.operands) and (step.operands[0].kind == "r" or step.operands[0].index_register != NONE)


# --- following the values ---------------------------------------------------------------------------------------


def states(graph: FunctionGraph) -> dict[int, Knowledge]:
    """Return what is known before each instruction of a function; of none if not all its ways are known."""
    if not graph.known:
        return {}
    entry: dict[int, Knowledge] = {}
    edges: dict[int, dict[int, Knowledge]] = {}
    waiting = deque(sorted(graph.roots & graph.steps.keys()))
    rounds = ROUNDS * len(graph.steps)
    while waiting:
        address = waiting.popleft()
        state = _met(graph, address, edges.get(address, {}))
        while address in graph.steps:
            rounds -= 1
            if rounds < 0:
                return {}
            entry[address] = state
            step = graph.steps[address]
            after = _after(step, state)
            targets = following(step)
            if len(targets) == 1 and not _meeting(graph, targets[0]):
                address, state = targets[0], after
                continue
            for target, held in zip(targets, _sides(step, after), strict=False):
                old = edges.setdefault(target, {}).get(address)
                if old is None or old != held:
                    edges[target][address] = held
                    waiting.append(target)
            break
    return entry


def _meeting(graph: FunctionGraph, address: int) -> bool:
    return address in graph.roots or len(graph.before.get(address, ())) > 1


def _met(graph: FunctionGraph, address: int, ways: dict[int, Knowledge]) -> Knowledge:
    """Return what is known where some ways meet."""
    if len(ways) == 1 and not _meeting(graph, address):
        return next(iter(ways.values())).copy()
    state = Knowledge([Value(("met", address, number), 64) for number in GENERAL])
    if address not in graph.roots and ways:
        for number, value in enumerate(state.registers):
            width = next((w for w in WIDTHS if all(s.sure(s.registers[number], w) for s in ways.values())), 0)
            if width:
                state.add(value, width)
    return state


def _sides(step: InstructionStep, state: Knowledge) -> tuple[Knowledge, Knowledge]:
    """Return what is known after a branch: where its condition holds, and where it does not."""
    sides = state.copy(), state.copy()
    if state.flags is not None and step.flow == "branch" and step.name.startswith("J"):  # LOOPE has a condition, too
        for side, holds in zip(sides, (True, False), strict=True):
            if _shows(state.flags, step.condition, holds=holds):
                for value in state.flags.values:
                    side.add(value, state.flags.bits)
    return sides


NEGATIONS = {"e": "ne", "a": "be", "ae": "b", "g": "le", "ge": "l", "s": "ns"}
NEGATIONS |= {other: name for name, other in NEGATIONS.items()}


def _shows(flags: Flags, condition: str, *, holds: bool) -> bool:
    """Return whether a condition, or that it does not hold, shows that the values are not zero."""
    if not holds:
        condition = NEGATIONS.get(condition, "")
    number = flags.number
    if flags.kind != "compare":
        return condition in ("ne", "a", "g") or (flags.signed and condition in ("s", "l"))
    unsigned = number & ((1 << flags.bits) - 1)
    return {
        "e": unsigned != 0,
        "ne": unsigned == 0,
        "a": True,
        "ae": unsigned > 0,
        "g": number >= 0,
        "ge": number > 0,
        "l": number <= 0,
        "le": number < 0,
    }.get(condition, False)


def _after(step: InstructionStep, state: Knowledge) -> Knowledge:
    """Return what is known after an instruction."""
    out = state.copy()
    if step.flow in ("call", "call?"):
        out.registers = [Value(("call", step.address, number), 64) for number in GENERAL]
        out.flags = None
        return out
    made = _made(step, state)
    for number in step.writes:
        if 0 <= number < len(out.registers):
            out.registers[number] = Value(("made", step.address, number), 64)
    if made is not None:
        target, value, sure = made
        if value is not None:
            out.registers[target.register] = value
        if sure:
            out.add(out.registers[target.register], sure)
    if step.flags:
        out.flags = _flags(step, state, out)
    return out


def value_of(operand: Operand, state: Knowledge) -> Value | None:
    """Return what a register operand holds, as far as it is read; None of other operands."""
    if operand.kind != "r" or not 0 <= operand.register < len(state.registers):
        return None
    held = state.registers[operand.register]
    if operand.shift:
        return None
    return Value(held.name, min(held.bits, 8 * operand.size))


def _made(step: InstructionStep, state: Knowledge) -> tuple[Operand, Value | None, int] | None:
    """Return the register that an instruction writes, the value that it copies, and bits that are not all zero."""
    if not step.operands or step.operands[0].kind != "r" or step.operands[0].shift:
        return None
    target, bits = step.operands[0], 8 * step.operands[0].size
    if target.size < 4 or not 0 <= target.register < len(state.registers):
        return None
    source = step.operands[1] if len(step.operands) > 1 else target
    other, own = value_of(source, state), value_of(target, state)
    if step.name in ("MOV", "MOVZX", "MOVSX", "MOVSXD") and other is not None:
        return target, other, 0
    sure = False
    number = source.value & ((1 << bits) - 1) if source.kind == "i" else 0
    if step.name == "MOV":
        sure = number != 0
    elif step.name == "OR":
        sure = number != 0 or any(v is not None and state.sure(v, bits) for v in (own, other))
    elif step.name == "BTS":
        sure = True
    elif step.name in ("NEG", "BSWAP", "ROL", "ROR"):
        sure = own is not None and state.sure(own, bits)
    elif step.name == "CMOV":
        sure = all(v is not None and state.sure(v, bits) for v in (own, other))
    return target, None, bits if sure else 0


def _flags(step: InstructionStep, before: Knowledge, after: Knowledge) -> Flags | None:
    """Return what the flags say after an instruction that sets them; None if that is of no use."""
    if not step.operands:
        return None
    first, second = step.operands[0], step.operands[-1]
    bits = 8 * first.size
    own, other = value_of(first, before), value_of(second, before)
    found: Flags | None = None
    if step.name == "CMP" and own is not None and second.kind == "i":
        number = second.value & ((1 << bits) - 1)
        found = Flags("compare", (own,), bits, number - (1 << bits) if number >> (bits - 1) else number)
    elif step.name == "TEST" and own is not None and first == second:
        found = Flags("result", (own,), bits, signed=True)
    elif step.name == "TEST":
        found = Flags("mask", tuple(v for v in (own, other) if v is not None), bits)
    elif step.name in ("BSF", "BSR", "POPCNT") and other is not None:  # ZF is whether the source is zero (SDM vol. 2)
        found = Flags("mask", (other,), 8 * second.size)
    elif step.name in RESULTS or (step.name in ("SHL", "SHR", "SAR") and _counted(second, bits)):
        made = value_of(first, after)
        found = None if made is None else Flags("result", (made,), bits, signed=step.name in LOGIC)
    return found


def _counted(count: Operand, bits: int) -> bool:
    """Return whether a shift is by a number that is not zero: else it leaves the flags as they are."""
    return count.kind == "i" and count.value & (63 if bits == 64 else 31) != 0
