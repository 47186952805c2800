"""Tests of flags: tell a test of what a library has kept of the CPU's answers from a test of another number.

A test looks at a byte or a number of few bytes. It counts if all numbers that it may look at are

- at a fixed place which functions that ask the CPU, or their callers, name;
- in a field to which such functions write, by its distance from the start of a structure;
- the result of such a function, or of the instruction itself;
- an argument which the function only tests and hands on: nobody computes with a flag. Lengths and pointers are used.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

from pikaforge.audit.isa.dispatch.game import setter
from pikaforge.audit.isa.dispatch.steps import (
    ARGUMENTS,
    NONE,
    RAX,
    RIP,
    RSP,
    VOLATILE,
    Body,
    InstructionStep,
    Operand,
)

FLAG_BYTES = 4
"""Bytes of the largest flag: a value of eight bytes is a pointer or a size."""
WHOLE = 4
"""Bytes of a register, whose other half an instruction sets to zero that writes to them."""
FIELD = 64
"""Bytes before the field of a structure that counts: what has the CPU's answers alone is at a fixed place."""
COPIES = frozenset({"MOV", "MOVZX", "MOVSX", "MOVSXD"})
MASKS = frozenset({"AND", "OR", "XOR", "SHL", "SHR", "SAR", "NOT"})
"""Instructions that take flags from a number of several, or put them there."""
ASKING = frozenset({"CPUID", "XGETBV"})
"""Instructions whose results are the CPU's answers."""
CALLS = ("call", "call?")
ORIGINS = 400
"""The most steps of the search for where a number is from."""
Place = tuple[int, int, int]
"""A block, the index of an instruction in it or of the one behind it, and a register."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Where a library keeps the CPU's answers."""

    places: Set[int]
    """Addresses of data."""
    fields: Set[int]
    """Distances from the start of a structure."""
    functions: Set[int]
    """Addresses of functions that return them."""
    widest: int = FLAG_BYTES
    """Bytes of the largest number at one of the addresses that is a flag."""
    unset: Set[int] = frozenset()
    """Addresses of calls that return 0 unless a user forces code on the CPU (`variables`)."""

    def has(self, operand: Operand) -> bool:
        """Return whether an operand in memory may be an answer."""
        if not _plain(operand):
            return False
        return operand.value in (self.places if operand.register in (RIP, NONE) else self.fields)


def answers_of(asking: Iterable[Body], users: Iterable[Body], places: Set[int], functions: Set[int]) -> Answers:
    """Return where a library keeps the CPU's answers.

    Args:
        asking: functions that run cpuid or xgetbv.
        users: functions that call them.
        places: addresses of data that these name.
        functions: addresses of functions that may return answers.
    """
    fields = {
        step.operands[0].value
        for code in (*asking, *users)
        for step in code.steps
        if step.name == "MOV" and _field(step.operands[0]) and step.operands[1].kind == "r"
    }
    return Answers(places=places, fields=fields, functions=functions)


def _plain(operand: Operand) -> bool:
    """Return whether an operand is memory that one register names, and not the stack."""
    plain = operand.kind == "m" and operand.index_register == NONE and not operand.segment
    return plain and operand.register != RSP


def _field(operand: Operand) -> bool:
    far = _plain(operand) and operand.register not in (RIP, NONE) and operand.value >= FIELD
    return far and operand.size <= FLAG_BYTES


def reads_flag(step: InstructionStep, most: int = FLAG_BYTES) -> bool:
    """Return whether an instruction tests a number of few bytes, or a part of it, for zero."""
    if len(step.operands) != 2 or step.operands[0].size > most:
        return False
    first, second = step.operands
    if step.name == "TEST":
        return first == second or second.kind == "i"
    return second.kind == "i" and (step.name in ("AND", "BT") or (step.name == "CMP" and second.value == 0))


def _zeroes(step: InstructionStep) -> bool:
    """Return whether ZF after an instruction says that its first operand, a whole register of 32 bits, is zero."""
    if len(step.operands) != 2 or step.operands[0].kind != "r" or step.operands[0].size != WHOLE:
        return False
    first, second = step.operands
    same = step.name == "TEST" and first == second
    return same or (second.kind == "i" and (step.name == "AND" or (step.name == "CMP" and second.value == 0)))


def compares_mask(step: InstructionStep, before: Sequence[InstructionStep]) -> bool:
    """Return whether an instruction compares a register with the mask that has just been applied to it."""
    if step.name != "CMP" or len(step.operands) != 2 or step.operands[0].kind != "r" or step.operands[1].kind != "i":
        return False
    if step.operands[0].size > FLAG_BYTES:
        return False
    return _mask(step.operands[0], [s for s in before if s.address < step.address]) == step.operands[1].value


def _mask(register: Operand, before: Sequence[InstructionStep]) -> int | None:
    """Return the bits that a register may have after some instructions that mask it; None if nothing does.

    OpenSSL puts the bits of two words together: `and $A,%eax; and $B,%ecx; or %ecx,%eax`.
    """
    writer = next((s for s in reversed(before) if register.register in s.writes), None)
    if writer is None or len(writer.operands) != 2 or writer.operands[0] != register:
        return None
    name, other = writer.name, writer.operands[1]
    if name != "OR" or other.kind != "r":
        return other.value if name == "AND" and other.kind == "i" else None
    earlier = [s for s in before if s.address < writer.address]
    own, more = _mask(register, earlier), _mask(other, earlier)
    return None if own is None or more is None else own | more


def tests_bit(step: InstructionStep) -> bool:
    """Return whether an instruction tests one bit of a register of any size: nobody tests one of a pointer."""
    return step.name == "BT" and step.operands[0].kind == "r" and step.operands[1].kind == "i"


class FlagTests:
    """The tests of flags in one function."""

    def __init__(self, code: Body, answers: Answers | None) -> None:
        """Read the function's control flow; without answers each test of few bytes is one of a flag."""
        self._code, self._all = code, answers is None
        self._answers = answers or Answers(places=frozenset(), fields=frozenset(), functions=frozenset())
        self._numbers = {step.address: number for number, step in enumerate(code.steps)}
        self._before: dict[int, list[int]] = {}
        for index, targets in enumerate(code.following):
            for target in targets:
                self._before.setdefault(target, []).append(index)
        self._known: dict[int, bool] = {}

    def decisive(self, code: Body, index: int) -> bool:
        """Return whether the branch at the end of a block tests a flag (`game.Decisive`)."""
        step = setter(code, index)
        if step is None:
            return False
        block = code.blocks[index]
        before = code.steps[block.first : block.last]
        return self.tests(step, before) or self._forces(step, before)

    def _forces(self, step: InstructionStep, before: Sequence[InstructionStep]) -> bool:
        """Return whether an instruction tests whether a variable is set that forces code on the CPU."""
        if not self._answers.unset or step.name != "TEST" or step.operands[0] != step.operands[1]:
            return False
        earlier = [s for s in before if s.address < step.address and (RAX in s.writes or s.flow in CALLS)]
        own = step.operands[0].kind == "r" and step.operands[0].register == RAX
        return own and bool(earlier) and earlier[-1].address in self._answers.unset

    def tests(self, step: InstructionStep, before: Sequence[InstructionStep]) -> bool:
        """Return whether an instruction tests a flag; `before` has instructions that run before it."""
        kept = bool(step.operands) and self._answers.has(step.operands[0])
        read = reads_flag(step, self._answers.widest if kept else FLAG_BYTES) or (not self._all and tests_bit(step))
        if not read and not compares_mask(step, before):
            return False
        if self._all:
            return True
        number = self._numbers[step.address]
        if number not in self._known:
            first = step.operands[0]
            self._known[number] = (
                self._memory(number, first) if first.kind == "m" else self.from_flags(number, first.register)
            )
        return self._known[number]

    def from_flags(self, number: int, register: int) -> bool:
        """Return whether all numbers that a register may hold before an instruction are flags."""
        seen: set[Place] = set()
        waiting = [(self._block(number), number, register)]
        arguments: set[int] = set()
        while waiting:
            place = waiting.pop()
            if place in seen:
                continue
            seen.add(place)
            found = self._origin(place) if len(seen) <= ORIGINS else None
            if found is None:
                return False
            arguments |= {source for block, _, source in found if block == NONE}
            waiting += [source for source in found if source[0] != NONE]
        return all(self._only_tested(0, argument) for argument in arguments)

    def _origin(self, place: Place) -> list[Place] | None:
        """Return the places that a number is from; the block is `NONE` for arguments. None if it is no flag."""
        index, number, register = place
        for at in range(number - 1, self._code.blocks[index].first - 1, -1):
            step = self._code.steps[at]
            if step.flow in CALLS and register in VOLATILE:
                return [] if register == RAX and step.target in self._answers.functions else None
            if register in step.writes:
                return [] if step.name in ASKING else self._made(index, at, register)
        found = self._earlier(index, register)
        if index == 0:
            return [(NONE, 0, register), *found] if register in ARGUMENTS else None
        return found or None

    def _earlier(self, index: int, register: int) -> list[Place]:
        """Return the ends of the blocks that may precede a block, with a register."""
        return [(source, self._code.blocks[source].last, register) for source in self._before.get(index, ())]

    def _made(self, index: int, at: int, register: int) -> list[Place] | None:
        """Return the places that the number is from which an instruction of a block writes to a register."""
        step = self._code.steps[at]
        if not step.operands or step.operands[0].kind != "r" or step.operands[0].register != register:
            return None
        source = step.operands[-1]
        if step.name not in COPIES | MASKS | {"CMOV"}:
            return None
        if step.name == "XOR" and step.operands[0] == source:
            return []
        own = [] if step.name in COPIES else [(index, at, register)]
        if source.kind == "r":
            return [*own, (index, at, source.register)]
        return own if source.kind == "i" or (source.kind == "m" and self._memory(at, source)) else None

    def _memory(self, number: int, operand: Operand) -> bool:
        """Return whether what an instruction reads in memory is a flag: an answer, or a number that is only tested."""
        if self._answers.has(operand) or (_plain(operand) and self._pointed(number, operand)):
            return True
        if operand.register != RSP or operand.index_register != NONE or operand.segment:
            return False
        depth = self._depths[number]
        return depth is not None and all(
            self._idle(at, step, position)
            for at, step in enumerate(self._code.steps)
            for position, other in enumerate(step.operands)
            if other.kind == "m"
            and other.register == RSP
            and self._depths[at] in (None, depth + operand.value - other.value)
        )

    @cached_property
    def _depths(self) -> list[int | None]:
        """How far the stack pointer is from where it was at the function's start, before each instruction.

        None where that is not known. A place on the stack has another distance from it after each push.
        """
        out: list[int | None] = [None] * len(self._code.steps)
        seen: dict[int, int | None] = {}
        waiting: list[tuple[int, int | None]] = [(0, 0)] if self._code.blocks else []
        while waiting:
            index, depth = waiting.pop()
            if index in seen and seen[index] in (None, depth):
                continue
            depth = seen[index] = None if index in seen else depth
            for number in range(self._code.blocks[index].first, self._code.blocks[index].last):
                out[number] = depth
                depth = None if depth is None else _moved(self._code.steps[number], depth)
            waiting += [(target, depth) for target in self._code.following[index]]
        return out

    def _pointed(self, number: int, operand: Operand) -> bool:
        """Return whether a register points to an answer at a fixed place, on all ways to an instruction."""
        seen: set[Place] = set()
        register = operand.register
        waiting = [(self._block(number), number, register)]
        while waiting:
            place = waiting.pop()
            if place in seen:
                continue
            seen.add(place)
            before = self._code.steps[self._code.blocks[place[0]].first : place[1]]
            changing = [s for s in before if register in s.writes or (s.flow in CALLS and register in VOLATILE)]
            earlier = self._earlier(place[0], register)
            if changing:
                found = self._takes(changing[-1], operand.value)
            else:
                waiting += earlier
                found = bool(earlier) and place[0] != 0
            if not found or len(seen) > ORIGINS:
                return False
        return True

    def _takes(self, step: InstructionStep, distance: int) -> bool:
        """Return whether an instruction takes the address of data before an answer."""
        if step.name != "LEA" or step.operands[1].register != RIP:
            return False
        return step.operands[1].value + distance in self._answers.places

    def _idle(self, number: int, step: InstructionStep, position: int) -> bool:
        """Return whether an instruction only stores a number on the stack, tests it, hands it on, or loads it."""
        if (position == 0 and step.name == "MOV") or step.name == "PUSH":
            return True
        if position == 1 and step.name in COPIES and step.operands[0].kind == "r":
            return self._only_tested(number + 1, step.operands[0].register)
        return reads_flag(step)

    def _block(self, number: int) -> int:
        return bisect_right(self._code.blocks, number, key=attrgetter("first")) - 1

    def _only_tested(self, number: int, register: int) -> bool:
        """Return whether a register's number is only tested and handed on, from an instruction on."""
        waiting = [(number, frozenset({register}))]
        seen: set[tuple[int, frozenset[int]]] = set()
        blocks = {block.last: index for index, block in enumerate(self._code.blocks)}
        while waiting:
            at, held = waiting.pop()
            while held and (at, held) not in seen and at < len(self._code.steps):
                seen.add((at, held))
                step = self._code.steps[at]
                masked = compares_mask(step, self._code.steps[max(at - 1, 0) : at])
                after = held if masked else _passed(step, held)
                if after is None or len(seen) > ORIGINS * 10:
                    return False
                held, at = after, at + 1
                if at in blocks:
                    waiting += self._onward(blocks[at], held)
                    break
        return True

    def _onward(self, index: int, held: frozenset[int]) -> list[tuple[int, frozenset[int]]]:
        """Return the first instructions of the blocks that follow a block, each with the registers that hold a number.

        Where a test has found zero, its register holds zero, which is no flag: a compiler uses it as any other zero.
        """
        block, targets = self._code.blocks[index], self._code.following[index]
        firsts = [self._code.blocks[target].first for target in targets]
        step = setter(self._code, index)
        condition = self._code.steps[block.last - 1].condition
        if step is None or condition not in ("e", "ne") or len(targets) != 2 or not _zeroes(step):
            return [(first, held) for first in firsts]
        register = step.operands[0].register
        later = [s for s in self._code.steps[block.first : block.last] if s.address > step.address]
        kept = held if any(register in s.writes for s in later) else held - {register}
        return list(zip(firsts, (kept, held) if condition == "e" else (held, kept), strict=True))


def _moved(step: InstructionStep, depth: int) -> int | None:
    """Return the stack pointer's distance after an instruction; None if it is not known."""
    if RSP not in step.writes or step.flow in CALLS:
        return depth
    if step.name in ("PUSH", "POP"):
        return depth + (-8 if step.name == "PUSH" else 8)
    if step.name not in ("ADD", "SUB"):
        return None
    first, last = step.operands
    if (first.kind, first.register, last.kind) != ("r", RSP, "i"):
        return None
    value = (last.value + (1 << 63)) % (1 << 64) - (1 << 63)
    return depth + (value if step.name == "ADD" else -value)


def _passed(step: InstructionStep, held: frozenset[int]) -> frozenset[int] | None:
    """Return the registers that hold a number after an instruction; None if the instruction computes with it."""
    if step.flow in CALLS:
        return held - frozenset(VOLATILE)
    sources = {o.register for o in step.operands[1:] if o.kind == "r"}
    if not held & {*step.reads, *sources}:
        return held - frozenset(step.writes)
    first, last = step.operands[0], step.operands[-1]
    places = {r for o in step.operands if o.kind == "m" for r in (o.register, o.index_register)}
    masked = step.name in MASKS and (last.kind == "i" or first == last)
    after: frozenset[int] | None = None
    if places & held:
        pass
    elif reads_flag(step) or step.name == "PUSH" or masked:
        after = held
    elif step.name in COPIES and last.kind == "r":
        after = (held - frozenset(step.writes)) | ({first.register} if first.kind == "r" else set())
    elif step.name == "CMOV" and first.kind == "r":
        after = held | {first.register}
    return after
