"""What a function does on a CPU that answers "no": conditional constant propagation over its blocks.

Registers and the function's own frame are followed bit by bit (`values`). A branch whose condition is known is taken
one way only; what is never come to is not done. So a function that asks CPUID, and runs other code where a bit of
the answer is set, is shown not to run it where that bit is not set: the right bit, in the right sense.

What is assumed: code keeps to the calling convention, and writes through pointers only to what they point to. What is
not understood (vector registers, strings, unknown calls) leaves its results unknown, and addresses of functions that
it may carry away count as used.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pikaforge.isa.dispatch import values as v
from pikaforge.isa.dispatch.steps import (
    ARGUMENTS,
    NONE,
    RAX,
    RBP,
    RBX,
    RCX,
    RDX,
    RIP,
    RSP,
    VOLATILE,
    Body,
    Operand,
    Step,
)
from pikaforge.isa.dispatch.values import NO_ADDRESSES, UNKNOWN, Value

VISITS = 64
"""Of one block, after which nothing is kept of registers: a loop that counts would go on for long."""
FILE = "file"
"""Base of addresses in the file: what was written there, until another function may have written."""
OUTGOING = 128
"""Bytes above the stack pointer in which arguments of a call may lie."""
ANSWERS = (("eax", RAX), ("ebx", RBX), ("ecx", RCX), ("edx", RDX))
Flags = tuple[str, Value, Value, int] | None
"""What conditions are about: `result` of a logical operation, `sum`, `compare` of two, `bit` (carry); and the size."""
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


class Surroundings(Protocol):
    """What a function sees of the rest of its file."""

    def answer(self, leaf: int | None, part: int | None) -> Mapping[str, int]:
        """Bits by register that CPUID does not set in its answer to %eax and %ecx."""

    def load(self, address: int, size: int) -> Value:
        """What is in memory at an address of the file."""

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
            out=_both(mine.out or {}, theirs.out or {}),
        )


@dataclass(slots=True)
class _State:
    registers: list[Value]
    frame: Frame = field(default_factory=dict)
    flags: Flags = None
    escaped: int | None = None
    """The lowest offset in the frame that others hold a pointer to."""
    spent: int = 0
    """Registers, a bit each, whose value a conditional move has not taken: what remains there is no argument."""

    def copy(self) -> _State:
        return _State(list(self.registers), dict(self.frame), self.flags, self.escaped, self.spent)


def run(
    code: Body, around: Surroundings, *, arguments: Sequence[Value] = (), entries: Sequence[int] = (), loose: bool
) -> Trace:
    """Run a function as far as it may come.

    Args:
        code: the function.
        around: the file.
        arguments: what it is called with; else nothing is known of them.
        entries: addresses at which it is entered beside its start, with nothing known.
        loose: whether blocks to which nothing leads are entered from outside (handlers of exceptions), too, and not
            only by its own indirect jumps.
    """
    return _Run(code, around).run(arguments, entries, loose=loose)


def _fresh(arguments: Sequence[Value]) -> _State:
    registers = [v.pointer(("entry", register)) for register in range(16)]
    registers[RSP] = v.pointer(v.STACK)
    for number, register in enumerate(ARGUMENTS):
        given = arguments[number] if number < len(arguments) else UNKNOWN
        registers[register] = v.pointer(number) if given[0] is not None or not given[1] else given
    return _State(registers)


class _Run:
    def __init__(self, code: Body, around: Surroundings) -> None:
        self.code, self.around, self.trace = code, around, Trace()
        self.before: dict[int, _State] = {}
        self.visits: dict[int, int] = {}
        self.waiting: set[int] = set()
        self.first: list[Value] = []
        """The registers at the start."""
        self.jumps = tuple(
            i for i, b in enumerate(code.blocks) if code.steps[b.last - 1].flow == "jump?" and code.loose
        )

    def run(self, arguments: Sequence[Value], entries: Sequence[int], *, loose: bool) -> Trace:
        starts = {0: _fresh(arguments)}
        self.first = list(starts[0].registers)
        for entry in entries:
            block = self.code.block_at(entry)
            if block > 0:
                starts[block] = _State([UNKNOWN] * 16)
        if loose or not self.jumps:
            starts |= {block: _State([UNKNOWN] * 16) for block in self.code.loose}
        for block, state in starts.items():
            self._enter(block, state)
        while self.waiting:
            # In the order of the code, which is mostly that of the flow: so few blocks are run again.
            block = min(self.waiting)
            self.waiting.discard(block)
            self._block(block)
        return self.trace

    def _enter(self, block: int, state: _State) -> None:
        old = self.before.get(block)
        if old is None:
            self.before[block] = state.copy()
        else:
            visits = self.visits[block] = self.visits.get(block, 0) + 1
            new = self._joined(old, state, tired=visits > VISITS)
            if new is None:
                return
            self.before[block] = new
        self.waiting.add(block)

    def _joined(self, old: _State, new: _State, *, tired: bool) -> _State | None:
        """Both states in one; None if that is the old one."""
        if old == new:
            return None
        registers = [a if a is b else v.join(a, b) for a, b in zip(old.registers, new.registers, strict=True)]
        if tired:
            registers = [a if a == b else v.unknown(b[3]) for a, b in zip(old.registers, registers, strict=True)]
        frame: Frame = {}
        for key, (size, value) in old.frame.items():
            other = new.frame.get(key)
            if other is not None and other[0] == size:
                joined = v.join(value, other[1])
                if tired and joined != value:
                    joined = v.unknown(joined[3])
                frame[key] = (size, joined)
            else:
                self._hand_on(value)
        for key, (_, value) in new.frame.items():
            if key not in frame:
                self._hand_on(value)
        flags = old.flags if old.flags == new.flags else None
        lowest = [e for e in (old.escaped, new.escaped) if e is not None]
        joined_state = _State(registers, frame, flags, min(lowest) if lowest else None, old.spent & new.spent)
        return None if joined_state == old else joined_state

    # ---- one block

    def _block(self, index: int) -> None:
        state = self.before[index].copy()
        block = self.code.blocks[index]
        steps, trace = self.code.steps, self.trace
        for number in range(block.first, block.last):
            step = steps[number]
            trace.steps.add(step.address)
            if step.flow == "next":
                self._plain(step, state)
            elif step.flow in ("call", "call?"):
                if not self._call(step, state):
                    return
            elif step.flow == "return":
                self._return(state)
                return
            elif step.flow == "jump?":
                self._leave(step, state)
                return
            elif step.flow == "stop":
                return
        self._go_on(index, steps[block.last - 1], state)

    def _go_on(self, index: int, last: Step, state: _State) -> None:
        following = self.code.following[index]
        inside = self.code.start <= last.target < self.code.end
        taken: bool | None = True
        if last.flow == "branch":
            taken = holds(last.condition, state.flags) if last.name.startswith("J") and last.condition else None
        elif last.flow != "jump":
            for block in following:
                self._enter(block, state)
            if not following and last.flow == "next":  # it runs into the next function
                self._tail(self.code.end, state)
            return
        if taken is not False:
            if inside:
                self._enter(following[0], state)
            else:
                self._tail(last.target, state.copy())
        if last.flow == "branch" and taken is not True:
            if len(following) > int(inside):
                self._enter(following[-1], state)
            else:
                self._tail(self.code.end, state)

    def _leave(self, step: Step, state: _State) -> None:
        """An indirect jump: to a case of a switch, or to another function."""
        self._operand(step.operands[0], state)
        self._outgoing(state)
        for block in self.code.loose if self.jumps else ():
            self._enter(block, state)
        self._comes_back()

    def _tail(self, target: int, state: _State) -> None:
        """Go on in another function, which returns for this one."""
        self.trace.references.add(target)
        given = [state.registers[r] for r in ARGUMENTS]
        summary = self.around.call(target, given) if v.offset(state.registers[RSP]) == 0 else None
        if summary is None:
            self._outgoing(state)
            self._comes_back()
        elif self._called(summary, given, state):
            self._return(state)

    def _comes_back(self) -> None:
        """It returns, with nothing known."""
        self.trace.summary = Summary(returns=UNKNOWN, out={})

    def _return(self, state: _State) -> None:
        # Of a structure of two addresses (%rax and %rdx) the first one is enough: each function must be proven.
        self._hand_on(state.registers[RAX])
        summary = self.trace.summary
        value = state.registers[RAX]
        value = UNKNOWN if value[0] is not None else value
        kept = frozenset(r for r in VOLATILE if state.registers[r] == self.first[r])
        summary.kept = kept if summary.returns is None else summary.kept & kept
        summary.returns = value if summary.returns is None else v.join(summary.returns, value)
        out = {key: held for key, held in state.frame.items() if key[0] == FILE or isinstance(key[0], int)}
        summary.out = out if summary.out is None else _both(summary.out, out)

    def _outgoing(self, state: _State, *, known: bool = False) -> None:
        """Everything that another function may get to see; if what it does is known, but for its arguments."""
        for register in () if known else ARGUMENTS:
            if not state.spent >> register & 1:
                self._hand_on(state.registers[register])
        top = v.offset(state.registers[RSP])
        base = state.registers[RSP][0]
        for (holder, place), (_, value) in state.frame.items():
            if value[3] and (top is None or holder != base or top <= place < top + OUTGOING):
                self._hand_on(value)

    def _call(self, step: Step, state: _State) -> bool:
        """Whether the call comes back."""
        given = [state.registers[r] for r in ARGUMENTS]
        summary: Summary | None = None
        if step.flow == "call?":
            self._operand(step.operands[0], state)
        elif step.target != step.following:
            self.trace.references.add(step.target)
            summary = self.around.call(step.target, given)
        return self._called(summary, given, state)

    def _called(self, summary: Summary | None, given: Sequence[Value], state: _State) -> bool:
        """The state after a call; whether it comes back."""
        registers = state.registers
        if summary is not None and summary.returns is None:
            return False
        self._outgoing(state, known=summary is not None)
        lowest = state.escaped
        for value in given:
            place = v.offset(value)
            if value[0] == v.STACK:
                lowest = min(x for x in (lowest, place) if x is not None) if place is not None else -(1 << 62)
            elif value[0] is not None:
                _forget(state.frame, value[0], place)
        _forget(state.frame, FILE, None)
        if lowest is not None:
            state.escaped = lowest
            _forget(state.frame, v.STACK, lowest)
        for register in VOLATILE:
            if summary is None or register not in summary.kept:
                registers[register] = UNKNOWN
        state.flags = None
        if summary is not None:
            if RAX not in summary.kept:
                registers[RAX] = summary.returns or UNKNOWN
            for (base, place), (size, value) in (summary.out or {}).items():
                if isinstance(base, int):
                    self._store(v.add(given[base], v.number(place)), size, value, state)
                else:
                    _keep(state.frame, base, place, size, value)
        return True

    # ---- memory

    def _place(self, operand: Operand, state: _State) -> Value:
        """The address that a memory operand names."""
        if operand.kind != "m" or operand.segment:
            return UNKNOWN
        if operand.register == RIP:
            own = frozenset({operand.value}) if self.around.names(operand.value) else NO_ADDRESSES
            place = v.number(operand.value, own)
        else:
            place = state.registers[operand.register] if operand.register != NONE else v.ZERO
            if operand.value:
                place = v.add(place, v.number(operand.value))
        if operand.index_register != NONE:
            index = state.registers[operand.index_register]
            place = v.add(place, v.product(index, v.number(operand.scale)))
        return place

    def _touch(self, place: Value) -> int | None:
        """Note which data is touched; the address in the file, if it is known."""
        address = v.known_number(place)
        if address is not None and self.around.names(address):
            self.trace.references.add(address)
            return address
        self.trace.references |= place[3]
        return None

    def _load(self, place: Value, size: int, state: _State) -> Value:
        if place[0] is not None:
            at = v.offset(place)
            return UNKNOWN if at is None else _held(state.frame, place[0], at, size)
        address = self._touch(place)
        if address is None:
            return UNKNOWN
        if any(
            key[0] == FILE and key[1] < address + size and address < key[1] + s for key, (s, _) in state.frame.items()
        ):
            return _held(state.frame, FILE, address, size)
        return self.around.load(address, size)

    def _store(self, place: Value, size: int, value: Value, state: _State) -> None:
        if place[0] is not None:
            at = v.offset(place)
            if at is not None and size:
                _keep(state.frame, place[0], at, size, value)
                if place[0] != v.STACK:
                    self._hand_on(value)
                return
        self._hand_on(value)
        address = self._touch(place)
        if address is not None and size:
            self.trace.stores.append((address, size, value))
            _keep(state.frame, FILE, address, size, value)
            return
        self.trace.handed |= place[3]  # a store somewhere into what these are the begins of
        if place[0] == v.STACK:
            _forget(state.frame, v.STACK, None)
        elif state.escaped is not None:
            _forget(state.frame, v.STACK, state.escaped)

    def _hand_on(self, value: Value) -> None:
        if value[3]:
            self.trace.references |= value[3]
            self.trace.handed |= value[3]

    def _operand(self, operand: Operand, state: _State) -> Value:
        """What an operand reads."""
        if operand.kind == "i":
            return v.number(operand.value)
        if operand.kind == "r":
            whole = state.registers[operand.register]
            return v.low(v.shifted_right(whole, 8, 8, sign=False) if operand.shift else whole, operand.size)
        if operand.kind == "m":
            return v.low(self._load(self._place(operand, state), operand.size, state), operand.size)
        return UNKNOWN

    def _set(self, operand: Operand, value: Value, state: _State) -> None:
        if operand.kind == "r":
            old = state.registers[operand.register]
            size = operand.size
            new = v.low(value, 4) if size == 4 else v.merged(old, v.low(value, size), size, operand.shift)
            state.registers[operand.register] = new
            state.spent &= ~(1 << operand.register)
        elif operand.kind == "m":
            self._store(self._place(operand, state), operand.size, value, state)
        else:
            self._hand_on(value)

    # ---- instructions

    def _plain(self, step: Step, state: _State) -> None:
        handler = _HANDLERS.get(step.name)
        if handler is None or any(o.kind not in ("r", "m", "i") for o in step.operands):
            self._other(step, state)
        else:
            handler(self, step, state)

    def _other(self, step: Step, state: _State) -> None:
        """An instruction that is not followed: what it reads is used, what it writes is unknown."""
        for register in step.reads:
            self._hand_on(state.registers[register])
        for operand in step.operands:
            if operand.kind == "m":
                self._touch(self._place(operand, state))
        if step.stores:
            written = next((o for o in step.operands if o.kind == "m"), None)
            if written is not None:
                self._store(self._place(written, state), written.size, UNKNOWN, state)
            else:  # strings: from any of these addresses on
                for register in step.reads:
                    value = state.registers[register]
                    if value[0] is not None:
                        _forget(state.frame, value[0], v.offset(value))
                self._store(UNKNOWN, 0, UNKNOWN, state)
        for register in step.writes:
            state.registers[register] = UNKNOWN
        if step.flags:
            state.flags = None

    def move(self, step: Step, state: _State) -> None:
        target, source = step.operands
        value = self._operand(source, state)
        if step.name in ("MOVSX", "MOVSXD"):
            value = v.extended(value, source.size)
        elif source.kind == "i":
            value = v.low(value, target.size)
        self._set(target, value, state)

    def lea(self, step: Step, state: _State) -> None:
        self._set(step.operands[0], self._place(step.operands[1], state), state)

    def logic(self, step: Step, state: _State) -> None:
        target, source = step.operands
        size = target.size
        a = b = v.ZERO
        if target == source and target.kind == "r" and step.name in ("XOR", "SUB"):
            value = v.ZERO
        elif step.name == "AND" and target == Operand("r", 8, RSP) and source.kind == "i":
            # The frame is aligned: what was below is not known from here, what will be is.
            state.registers[RSP] = v.pointer(("aligned", step.address))
            state.flags = None
            return
        else:
            a, b = self._operand(target, state), self._operand(source, state)
            value = _OPERATIONS[step.name](a, v.low(b, size))
        value = v.low(value, size) if size < 8 else value
        self._set(target, value, state)
        if step.name == "SUB":
            state.flags = ("compare", a, v.low(b, size), size)
        else:
            state.flags = ("sum" if step.name == "ADD" else "result", value, UNKNOWN, size)

    def test(self, step: Step, state: _State) -> None:
        a, b = (self._operand(o, state) for o in step.operands)
        size = step.operands[0].size
        state.flags = ("result", v.and_(a, b) if step.operands[0] != step.operands[1] else a, UNKNOWN, size)

    def compare(self, step: Step, state: _State) -> None:
        a, b = (self._operand(o, state) for o in step.operands)
        size = step.operands[0].size
        state.flags = ("compare", a, v.low(b, size), size)

    def unary(self, step: Step, state: _State) -> None:
        [operand] = step.operands
        value = self._operand(operand, state)
        result = {
            "NOT": lambda: v.not_(value),
            "NEG": lambda: v.negative(value),
            "INC": lambda: v.add(value, v.number(1)),
            "DEC": lambda: v.sub(value, v.number(1)),
        }[step.name]()
        result = v.low(result, operand.size)
        self._set(operand, result, state)
        if step.name != "NOT":
            state.flags = ("sum", result, UNKNOWN, operand.size)

    def shift(self, step: Step, state: _State) -> None:
        target = step.operands[0]
        value = self._operand(target, state)
        count = v.known_number(self._operand(step.operands[1], state), 1) if len(step.operands) > 1 else 1
        if count is None:
            result = value if v.is_zero(value, target.size) else v.unknown(value[3])
            self._set(target, result, state)
            state.flags = None
            return
        count &= 63 if target.size == 8 else 31
        if step.name == "SHL":
            result = v.low(v.shifted_left(value, count), target.size)
        else:
            result = v.low(v.shifted_right(value, count, target.size, sign=step.name == "SAR"), target.size)
        self._set(target, result, state)
        if count:
            state.flags = ("sum", result, UNKNOWN, target.size)

    def bit(self, step: Step, state: _State) -> None:
        target, source = step.operands
        if target.kind == "m" and source.kind != "i":
            self._other(step, state)  # the bit may be in another word
            return
        value, count = self._operand(target, state), v.known_number(self._operand(source, state), 1)
        if count is None:
            state.flags = None
            return
        one = v.shifted_right(value, count % (8 * target.size), 8, sign=False)
        state.flags = ("bit", v.and_(one, v.number(1)), UNKNOWN, 1)

    def set_if(self, step: Step, state: _State) -> None:
        found = holds(step.condition, state.flags)
        value = (None, v.ALL & ~1, 0, NO_ADDRESSES) if found is None else v.number(int(found))
        self._set(step.operands[0], value, state)

    def move_if(self, step: Step, state: _State) -> None:
        target, source = step.operands
        found = holds(step.condition, state.flags)
        old, new = self._operand(target, state), self._operand(source, state)
        self._set(target, v.join(old, new) if found is None else new if found else old, state)
        if found is False and source.kind == "r" and source != target:
            state.spent |= 1 << source.register

    def borrow(self, step: Step, state: _State) -> None:
        target, source = step.operands
        carry = holds("b", state.flags)
        if target != source or target.kind != "r" or carry is None:
            self._other(step, state)
            return
        value = v.low(v.number(-1 if carry else 0), target.size)
        self._set(target, value, state)
        state.flags = ("compare", v.ZERO, v.number(int(carry)), target.size)

    def push(self, step: Step, state: _State) -> None:
        value = self._operand(step.operands[0], state)
        state.registers[RSP] = v.add(state.registers[RSP], v.number(-8))
        self._store(state.registers[RSP], 8, value, state)

    def pop(self, step: Step, state: _State) -> None:
        value = self._load(state.registers[RSP], 8, state)
        state.registers[RSP] = v.add(state.registers[RSP], v.number(8))
        self._set(step.operands[0], value, state)

    def leave(self, _step: Step, state: _State) -> None:
        state.registers[RSP] = state.registers[RBP]
        state.registers[RBP] = self._load(state.registers[RSP], 8, state)
        state.registers[RSP] = v.add(state.registers[RSP], v.number(8))

    def exchange(self, step: Step, state: _State) -> None:
        a, b = step.operands
        first, second = self._operand(a, state), self._operand(b, state)
        self._set(a, second, state)
        self._set(b, first, state)

    def widen(self, step: Step, state: _State) -> None:
        value = state.registers[RAX]
        if step.name in ("CDQE", "CWDE"):
            size = 4 if step.name == "CDQE" else 2
            value = v.extended(v.low(value, size), size)
            state.registers[RAX] = value if size == 4 else v.low(value, 4)
            return
        size = 8 if step.name == "CQO" else 4
        sign = v.sign_of(value, size)
        state.registers[RDX] = UNKNOWN if sign is None else v.low(v.number(-1 if sign else 0), size)

    def multiply(self, step: Step, state: _State) -> None:
        if len(step.operands) < 2:
            self._other(step, state)
            return
        target = step.operands[0]
        a, b = (self._operand(o, state) for o in step.operands[-2:])
        self._set(target, v.low(v.product(a, b), target.size), state)
        state.flags = None

    def cpuid(self, _step: Step, state: _State) -> None:
        registers = state.registers
        leaf, part = (v.known_number(registers[r], 4) for r in (RAX, RCX))
        absent = self.around.answer(leaf, part)
        upper = v.ALL & ~v.mask(4)
        for name, register in ANSWERS:
            registers[register] = (None, upper | absent.get(name, 0), 0, NO_ADDRESSES)

    def nothing(self, _step: Step, _state: _State) -> None:
        return


_OPERATIONS = {"AND": v.and_, "OR": v.or_, "XOR": v.xor, "ADD": v.add, "SUB": v.sub}
_HANDLERS: Mapping[str, Callable[[_Run, Step, _State], None]] = {
    **dict.fromkeys(("MOV", "MOVZX", "MOVSX", "MOVSXD"), _Run.move),
    **dict.fromkeys(_OPERATIONS, _Run.logic),
    **dict.fromkeys(("NOT", "NEG", "INC", "DEC"), _Run.unary),
    **dict.fromkeys(("SHL", "SHR", "SAR"), _Run.shift),
    **dict.fromkeys(("CDQE", "CWDE", "CDQ", "CQO"), _Run.widen),
    **dict.fromkeys(("NOP", "ENDBR64", "PAUSE", "LFENCE", "MFENCE", "CLD"), _Run.nothing),
    "LEA": _Run.lea, "TEST": _Run.test, "CMP": _Run.compare, "BT": _Run.bit, "SET": _Run.set_if,
    "CMOV": _Run.move_if, "SBB": _Run.borrow, "PUSH": _Run.push, "POP": _Run.pop, "LEAVE": _Run.leave,
    "XCHG": _Run.exchange, "IMUL": _Run.multiply, "CPUID": _Run.cpuid,
}  # fmt: skip


def _both(a: Frame, b: Frame) -> Frame:
    """What holds in either."""
    return {key: (n, v.join(value, b[key][1])) for key, (n, value) in a.items() if key in b and b[key][0] == n}


def _held(frame: Frame, base: Hashable, at: int, size: int) -> Value:
    found = frame.get((base, at))
    if found is None or found[0] < size:
        return UNKNOWN
    return v.low(found[1], size) if size < 8 else found[1]


def _keep(frame: Frame, base: Hashable, at: int, size: int, value: Value) -> None:
    """Write to the frame; what overlaps is gone."""
    for key in [k for k, (s, _) in frame.items() if k[0] == base and k[1] < at + size and at < k[1] + s]:
        del frame[key]
    frame[base, at] = (size, value)


def _forget(frame: Frame, base: Hashable, lowest: int | None) -> None:
    for key in [k for k, (s, _) in frame.items() if k[0] == base and (lowest is None or k[1] + s > lowest)]:
        del frame[key]


def holds(condition: str, flags: Flags) -> bool | None:
    """Whether a condition holds; None if that is not known."""
    if flags is None:
        return None
    found = _holds(POSITIVE.get(condition, condition), flags)
    return not found if found is not None and condition in POSITIVE else found


POSITIVE = {"ne": "e", "ae": "b", "a": "be", "ns": "s", "ge": "l", "g": "le", "no": "o", "np": "p"}
"""Conditions that are the opposite of another one."""


def _holds(condition: str, flags: tuple[str, Value, Value, int]) -> bool | None:
    kind, a, b, size = flags
    if kind == "compare":
        return _compares(condition, a, b, size)
    if kind == "bit":
        return v.is_zero(a, size) is False if condition == "b" and v.is_zero(a, size) is not None else None
    zero, sign = v.is_zero(a, size), v.sign_of(a, size)
    if condition == "e":
        return zero
    if condition == "s":
        return sign
    if kind != "result":  # carry and overflow of a sum are not kept
        return None
    # A logical operation leaves neither carry nor overflow.
    if condition in ("b", "o"):
        return False
    if condition == "be":
        return zero
    if condition == "l":
        return sign
    if condition == "le":
        return True if sign or zero else False if sign is False and zero is False else None
    return None


def _compares(condition: str, a: Value, b: Value, size: int) -> bool | None:
    first, second = v.known_number(a, size), v.known_number(b, size)
    if first is not None and second is not None:
        x, y = v.signed(first, size), v.signed(second, size)
        return {
            "e": x == y,
            "b": first < second,
            "be": first <= second,
            "l": x < y,
            "le": x <= y,
            "s": bool((first - second) >> (8 * size - 1) & 1),
        }.get(condition)
    if condition == "e":
        if a[0] is None and b[0] is None and (a[2] ^ b[2]) & a[1] & b[1] & v.mask(size):
            return False
        return None
    if condition in ("b", "be"):
        if v.most(a, size) < v.least(b, size):
            return True
        if v.least(a, size) > v.most(b, size) or (condition == "b" and v.least(a, size) >= v.most(b, size)):
            return False
        if condition == "be" and v.most(a, size) <= v.least(b, size):
            return True
    return None
