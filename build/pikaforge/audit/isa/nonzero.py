"""Find out which registers of a function surely hold no zero, at each of its instructions.

Values are followed along all ways through the function (`function_graph`):

- A value is known to be non-zero after a branch that says so (`test %eax,%eax; je`), or by the instruction that makes
  it (`or $256,%eax`). Registers that are copies of each other share a value.
- Where ways meet, only what holds on all of them is kept. At a place that nothing visible leads to, nothing is known.
- After a call nothing is known, because ABIs differ in what a call may change.
- What is in memory at a distance from a register's value keeps its value until something may write to memory, or ways
  meet. Other threads are taken to leave it alone meanwhile: C and C++ do not define what happens otherwise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal, NamedTuple

from pikaforge.audit.isa.dispatch.steps import NONE, RIP, InstructionStep, Operand
from pikaforge.audit.isa.function_graph import FunctionGraph, following

ROUNDS = 24
"""How often a block is followed at most, on average."""
GENERAL = range(16)
SHIFTS = frozenset({"SHL", "SHR", "SAR", "ROL", "ROR"})
RESULTS = frozenset({"AND", "OR", "XOR", "ADD", "SUB", "INC", "DEC", "NEG"})
"""Instructions whose flags are those of the result."""
READING = RESULTS | SHIFTS | {"MOV", "MOVZX", "MOVSX", "MOVSXD", "CDQE", "LEA", "TEST", "CMP", "CMOV", "SET", "NOT"}
READING |= {"BT", "BTS", "BSF", "BSR", "TZCNT", "LZCNT", "POPCNT", "BSWAP", "IMUL", "NOP", "ENDBR64"}
"""Instructions that write to memory only through an operand, which `stores` tells."""
LOGIC = frozenset({"TEST", "AND", "OR", "XOR"})
Name = tuple[str, int, int]
"""What a value is called: how it came, at which address, in which register."""
ZERO: Name = ("zero", 0, 0)
"""The value that is surely zero."""


class Value(NamedTuple):
    """What a register holds: the low bits of a named value, extended. It is zero if they are."""

    name: Name
    bits: int


class Flags(NamedTuple):
    """What the flags say of some values."""

    kind: Literal["result", "mask", "compare", "pair"]
    """`result`: of one value, as TEST of it with itself. `mask`: of an AND of values, which is none of them.
    `compare`: of a comparison with a number. `pair`: of a comparison of two values."""
    values: tuple[Value, ...]
    bits: int
    number: int = 0
    signed: bool = False
    """Whether the sign is that of the value, and nothing has overflowed."""


@dataclass(slots=True)
class Knowledge:
    """What is known before an instruction."""

    registers: list[Value]
    facts: dict[Name, int] = field(default_factory=dict)
    """Values that are not zero, with the number of low bits that are not all zero."""
    pairs: dict[tuple[Name, Name], int] = field(default_factory=dict)
    """Pairs of values that are not equal, with the number of low bits that differ somewhere."""
    flags: Flags | None = None
    version: int = 0
    """The address from which on nothing has written to memory."""

    def copy(self) -> Knowledge:
        """Return a copy, which can be changed."""
        return Knowledge(list(self.registers), dict(self.facts), dict(self.pairs), self.flags, self.version)

    def least(self, value: Value) -> int:
        """Return how many low bits of a value are not all zero; 0 if it is not known that any is."""
        found = self.facts.get(value.name, 0)
        return found if found <= value.bits else 0

    def sure(self, value: Value, bits: int) -> bool:
        """Return whether the low bits of a value are not all zero."""
        return 0 < self.least(value) <= bits

    def add(self, value: Value, bits: int) -> None:
        """Note that the low bits of a value are not all zero."""
        bits = min(bits, value.bits)
        self.facts[value.name] = min(bits, self.facts.get(value.name, bits))

    def differing(self, first: Value, second: Value) -> int:
        """Return in how many low bits two values are not equal; 0 if it is not known that they differ."""
        found = self.pairs.get(_pair(first, second), 0)
        return found if found <= min(first.bits, second.bits) else 0

    def part(self, first: Value, second: Value, bits: int) -> None:
        """Note that some low bits of two values are not equal."""
        if bits <= min(first.bits, second.bits):
            pair = _pair(first, second)
            self.pairs[pair] = min(bits, self.pairs.get(pair, bits))


def _pair(first: Value, second: Value) -> tuple[Name, Name]:
    return (first.name, second.name) if first.name <= second.name else (second.name, first.name)


def states(graph: FunctionGraph, wanted: Container[int]) -> dict[int, Knowledge]:
    """Return what is known before some instructions of a function; of none if not all its ways are known."""
    if not graph.known:
        return {}
    found: dict[int, Knowledge] = {}
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
            if address in wanted:
                found[address] = state.copy()
            step = graph.steps[address]
            _run(step, state)
            targets = tuple(dict.fromkeys(following(step)))
            if len(targets) == 1 and not _meeting(graph, targets[0]):
                address = targets[0]
                continue
            # A branch to the next instruction says nothing.
            for target, held in zip(targets, _sides(step, state) if len(targets) > 1 else (state,), strict=False):
                ways = edges.setdefault(target, {})
                if ways.get(address) != held:
                    ways[address] = held
                    if target not in waiting:
                        waiting.append(target)
            break
    return found


def _meeting(graph: FunctionGraph, address: int) -> bool:
    return address in graph.roots or len(graph.before.get(address, ())) > 1


def _met(graph: FunctionGraph, address: int, ways: dict[int, Knowledge]) -> Knowledge:
    """Return what is known where some ways meet."""
    if len(ways) == 1 and not _meeting(graph, address):
        return next(iter(ways.values())).copy()
    state = Knowledge([Value(("met", address, number), 64) for number in GENERAL], version=address)
    if address not in graph.roots and ways:
        first, *others = ways.values()
        for number, value in enumerate(first.registers):
            widths = [first.least(value)]
            if widths[0] and others:
                widths += [other.least(other.registers[number]) for other in others]
            if all(widths):
                state.add(state.registers[number], max(widths))
        _keep_pairs(state, first, others)
    return state


def _keep_pairs(state: Knowledge, first: Knowledge, others: Sequence[Knowledge]) -> None:
    """Note the pairs of registers that differ on all ways that meet."""
    for pair in first.pairs:
        held = [number for number in GENERAL if first.registers[number].name in pair]
        for one, two in combinations(held, 2):
            bits = [way.differing(way.registers[one], way.registers[two]) for way in (first, *others)]
            if all(bits):
                state.part(state.registers[one], state.registers[two], max(bits))


def _sides(step: InstructionStep, state: Knowledge) -> tuple[Knowledge, Knowledge]:
    """Return what is known after a branch: where its condition holds, and where it does not."""
    sides = state.copy(), state.copy()
    if state.flags is not None and step.flow == "branch" and step.name.startswith("J"):  # LOOPE has a condition, too
        for side, holds in zip(sides, (True, False), strict=True):
            if not _shows(state.flags, step.condition, holds=holds):
                continue
            if state.flags.kind == "pair":
                first, second = state.flags.values
                side.part(first, second, state.flags.bits)
                continue
            for value in state.flags.values:
                side.add(value, state.flags.bits)
    return sides


NEGATIONS = {"e": "ne", "a": "be", "ae": "b", "g": "le", "ge": "l", "s": "ns"}
NEGATIONS |= {other: name for name, other in NEGATIONS.items()}


def _shows(flags: Flags, condition: str, *, holds: bool) -> bool:
    """Return whether a condition, or that it does not hold, shows that the values are not zero, or not equal."""
    if not holds:
        condition = NEGATIONS.get(condition, "")
    if flags.kind == "pair":
        return condition in ("ne", "a", "b", "g", "l")
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


def _run(step: InstructionStep, state: Knowledge) -> None:
    """Change what is known to what is known after an instruction."""
    if step.flow in ("call", "call?"):
        state.registers = [Value(("call", step.address, number), 64) for number in GENERAL]
        state.flags, state.version = None, step.address
        return
    operands = step.operands
    own, other = (value_of(operands[index], state) if operands else None for index in (0, -1))
    if step.stores or not (step.name in READING or step.flow in ("branch", "jump")):
        state.version = step.address
    if not step.writes and not step.flags:
        return
    made = _made(step, state, own, other) if step.writes else None
    for number in step.writes:
        if 0 <= number < len(state.registers):
            state.registers[number] = Value(("made", step.address, number), 64)
    if made is not None:
        target, value, sure = made
        if value is not None:
            state.registers[target] = value
        if sure:
            state.add(state.registers[target], sure)
    if step.flags:
        state.flags = _flags(step, own, other, value_of(operands[0], state) if operands else None)


def value_of(operand: Operand, state: Knowledge) -> Value | None:
    """Return what an operand holds, as far as it is read; None if it is not followed."""
    if operand.kind == "m":
        return _in_memory(operand, state)
    if operand.kind != "r" or not 0 <= operand.register < len(state.registers):
        return None
    held = state.registers[operand.register]
    if operand.shift:
        return None
    return Value(held.name, min(held.bits, 8 * operand.size))


def _in_memory(operand: Operand, state: Knowledge) -> Value | None:
    """Return what is in memory at a distance from a register's value, or at a fixed place."""
    if operand.segment or operand.index_register != NONE or not operand.size:
        return None
    base: object = "fixed"
    if 0 <= operand.register < len(state.registers):
        base = state.registers[operand.register]
    elif operand.register != RIP:
        return None
    return Value((f"memory {base} {operand.size}", state.version, operand.value), 8 * operand.size)


def _made(
    step: InstructionStep, state: Knowledge, own: Value | None, other: Value | None
) -> tuple[int, Value | None, int] | None:
    """Return the register that an instruction writes, the value that it copies, and low bits that are not all zero.

    Args:
        step: the instruction.
        state: what is known before it.
        own: what its first operand holds.
        other: what its last operand holds.
    """
    target, source = (step.operands[0], step.operands[-1]) if step.operands else (None, None)
    if target is None or source is None or own is None or target.kind != "r" or target.size < 4:
        return None
    bits = 8 * target.size
    if step.name in ("MOV", "MOVZX", "MOVSX", "MOVSXD") and other is not None:
        return target.register, other, 0
    number = source.value & ((1 << bits) - 1) if source.kind == "i" else 0
    cleared = (step.name in ("XOR", "SUB") and target == source) or (step.name == "MOV" and source.kind == "i")
    if cleared and number == 0:
        return target.register, Value(ZERO, 64), 0
    if step.name in ("XOR", "SUB") and other is not None:
        return target.register, None, state.differing(own, other)
    sure = False
    if step.name == "MOV":
        sure = number != 0
    elif step.name == "OR":
        sure = number != 0 or any(v is not None and state.sure(v, bits) for v in (own, other))
    elif step.name == "BTS":
        sure = True
    elif step.name in ("NEG", "BSWAP", "ROL", "ROR"):
        sure = state.sure(own, bits)
    elif step.name == "CMOV":
        sure = other is not None and state.sure(own, bits) and state.sure(other, bits)
    return target.register, None, bits if sure else 0


def _flags(step: InstructionStep, own: Value | None, other: Value | None, made: Value | None) -> Flags | None:
    """Return what the flags say after an instruction that sets them; None if that is of no use.

    Args:
        step: the instruction.
        own: what its first operand holds before it.
        other: what its last operand holds before it.
        made: what its first operand holds after it.
    """
    if not step.operands:
        return None
    first, second = step.operands[0], step.operands[-1]
    bits = 8 * first.size
    found: Flags | None = None
    if step.name == "CMP" and own is not None and second.kind == "i":
        number = second.value & ((1 << bits) - 1)
        found = Flags("compare", (own,), bits, number - (1 << bits) if number >> (bits - 1) else number)
    elif step.name == "CMP" and own is not None and other is not None:
        found = Flags("pair", (own, other), bits)
    elif step.name == "TEST" and own is not None and first == second:
        found = Flags("result", (own,), bits, signed=True)
    elif step.name == "TEST":
        found = Flags("mask", tuple(v for v in (own, other) if v is not None), bits)
    elif step.name in ("BSF", "BSR", "POPCNT") and other is not None:  # ZF is whether the source is zero (SDM vol. 2)
        found = Flags("mask", (other,), 8 * second.size)
    elif step.name in RESULTS or (step.name in ("SHL", "SHR", "SAR") and _counted(second, bits)):
        found = None if made is None else Flags("result", (made,), bits, signed=step.name in LOGIC)
    return found


def _counted(count: Operand, bits: int) -> bool:
    """Return whether a shift is by a number that is not zero: else it leaves the flags as they are."""
    return count.kind == "i" and count.value & (63 if bits == 64 else 31) != 0
