"""Run a function in an abstract way: conditional constant propagation over its blocks.

Registers, the function's frame and data of the file hold abstract values (`values`). A block starts with a state that
stands for all states in which its predecessors end; blocks are run until no state changes. A branch whose condition is
known is taken one way only, and a block that is not reached does nothing. So for a function that runs CPUID, and runs
other code if a bit of the answer is set, the result is that it does not run that code if the bit is 0: it is checked
that it is the right bit, and in the right sense.

What is assumed about compiled code:

- it keeps to the calling convention of the System V ABI;
- it writes through a pointer only to the thing that the pointer points to, and different arguments point to different
  things;
- it returns addresses in %rax, and in %rdx the second word of a structure. What a conditional move has not taken, or
  what was only compared, is a leftover there; an ifunc resolver returns one word.

What is not understood (vector registers, string instructions, unknown calls) leaves unknown results. Addresses of code
and data that can get out of the function count as used.
"""

from __future__ import annotations

from collections.abc import Sequence

from pikaforge.audit.isa.dispatch import values as v
from pikaforge.audit.isa.dispatch.conditions import holds
from pikaforge.audit.isa.dispatch.instructions import execute
from pikaforge.audit.isa.dispatch.machine import WORD, ExecutionState
from pikaforge.audit.isa.dispatch.state import (
    COMPARED,
    FILE,
    CpuState,
    Environment,
    Frame,
    Summary,
    Trace,
    both,
    forget,
    keep,
)
from pikaforge.audit.isa.dispatch.steps import ARGUMENTS, RAX, RDX, RSP, VOLATILE, Body, InstructionStep
from pikaforge.audit.isa.dispatch.values import UNKNOWN, Value

VISITS = 64
"""Visits of one block after which values that still change become unknown (widening): a counting loop takes long."""


def run(
    code: Body,
    environment: Environment,
    *,
    arguments: Sequence[Value] = (),
    entries: Sequence[int] = (),
    loose: bool,
    pair: bool = True,
) -> Trace:
    """Return what a function may do.

    Args:
        code: the function.
        environment: the rest of its file.
        arguments: the values that it is called with, in the order of `ARGUMENTS`; unknown ones may be left out.
        entries: addresses, beside its start, at which it is entered; there all registers are unknown.
        loose: whether blocks without a visible predecessor may be entered from outside (exception handlers), and not
            only by the function's own indirect jumps.
        pair: whether the caller may use %rdx, too.
    """
    return _Run(code, environment, pair=pair).run(arguments, entries, loose=loose)


def _fresh(arguments: Sequence[Value]) -> CpuState:
    """Return the state at the function's start.

    Each register without a known number points to something of its own, so that it is seen whether it was changed.
    """
    registers = [v.pointer(("entry", register)) for register in range(16)]
    registers[RSP] = v.pointer(v.STACK)
    for number, register in enumerate(ARGUMENTS):
        given = arguments[number] if number < len(arguments) else UNKNOWN
        registers[register] = v.pointer(number) if given[0] is not None or not given[1] else given
    return CpuState(registers)


def _wider(old: Value, new: Value, *, widen: bool) -> Value:
    """Return the value that stands for both; with `widen`, one that would change the old one is unknown."""
    joined = v.join(old, new)
    return v.unknown(joined[3]) if widen and joined != old else joined


class _Run(ExecutionState):
    """The abstract run of one function."""

    def __init__(self, code: Body, environment: Environment, *, pair: bool) -> None:
        super().__init__(environment)
        self.code, self.pair = code, pair
        self.before: dict[int, CpuState] = {}
        """The state at the start of each block that is reached."""
        self.visits: dict[int, int] = {}
        self.waiting: set[int] = set()
        """Blocks whose state at the start has changed since they were run."""
        self.first: list[Value] = []
        """The registers at the function's start."""
        self.jumps = tuple(
            i for i, b in enumerate(code.blocks) if code.steps[b.last - 1].flow == "jump?" and code.loose
        )

    def run(self, arguments: Sequence[Value], entries: Sequence[int], *, loose: bool) -> Trace:
        starts = {0: _fresh(arguments)}
        self.first = list(starts[0].registers)
        for entry in entries:
            block = self.code.block_at(entry)
            if block > 0:
                starts[block] = CpuState([UNKNOWN] * 16)
        if loose or not self.jumps:
            starts |= {block: CpuState([UNKNOWN] * 16) for block in self.code.loose}
        for block, state in starts.items():
            self._enter(block, state)
        while self.waiting:
            # The order of the code is mostly that of the control flow, so that few blocks are run twice.
            block = min(self.waiting)
            self.waiting.discard(block)
            self._block(block)
        return self.trace

    def _enter(self, block: int, state: CpuState) -> None:
        old = self.before.get(block)
        if old is None:
            self.before[block] = state.copy()
        else:
            visits = self.visits[block] = self.visits.get(block, 0) + 1
            new = self._joined(old, state, widen=visits > VISITS)
            if new is None:
                return
            self.before[block] = new
        self.waiting.add(block)

    def _joined(self, old: CpuState, new: CpuState, *, widen: bool) -> CpuState | None:
        """Return a state that stands for both states; None if that is the old one.

        With `widen`, values that change become unknown.
        """
        registers = [
            a if a is b else _wider(a, b, widen=widen) for a, b in zip(old.registers, new.registers, strict=True)
        ]
        # Only one of the states has written these data of the file. `called` keeps a later load from taking the content
        # that was there at the start.
        written = any(key[0] == FILE for key in old.frame.keys() ^ new.frame.keys())
        frame = old.frame if old.frame == new.frame else self._joined_frame(old.frame, new.frame, widen=widen)
        escaped = old.escaped
        if escaped != new.escaped:
            escaped = dict(escaped)
            for base, low in new.escaped.items():
                escaped[base] = min(low, escaped.get(base, low))
        flags = old.flags if old.flags == new.flags else None
        spent = old.spent & new.spent
        if old.leftover(RDX) and new.leftover(RDX):
            spent |= COMPARED << RDX
        joint = CpuState(registers, frame, flags, escaped, old.called or new.called or written, spent)
        return None if joint == old else joint

    def _joined_frame(self, old: Frame, new: Frame, *, widen: bool) -> Frame:
        """Return the memory that both states know; what only one of them knows may get out of the function."""
        frame: Frame = {}
        for key, held in old.items():
            other = new.get(key)
            if other is held:
                frame[key] = held
            elif other is not None and other[0] == held[0]:
                joined = _wider(held[1], other[1], widen=widen)
                frame[key] = held if joined is held[1] else (held[0], joined)
            else:
                self.hand_on(held[1])
        for key, (_, value) in new.items():
            if key not in frame:
                self.hand_on(value)
        return frame

    # ---- one block

    def _block(self, index: int) -> None:
        state = self.before[index].copy()
        block = self.code.blocks[index]
        self.environment.spend(block.last - block.first)
        steps, trace = self.code.steps, self.trace
        for number in range(block.first, block.last):
            step = steps[number]
            trace.steps.add(step.address)
            if step.flow == "next":
                execute(self, step, state)
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

    def _go_on(self, index: int, last: InstructionStep, state: CpuState) -> None:
        """Enter the blocks or functions that may follow a block; `state` is the block's state at its end."""
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

    def _leave(self, step: InstructionStep, state: CpuState) -> None:
        """Leave by an indirect jump, which is to a case of a switch, or to another function."""
        self.hand_on(self.read(step.operands[0], state))
        self.outgoing(state)
        for block in self.code.loose if self.jumps else ():
            self._enter(block, state)
        self._comes_back()

    def _tail(self, target: int, state: CpuState) -> None:
        """Leave by a jump to another function, which returns in place of this one."""
        self.trace.references.add(target)
        given = [state.registers[r] for r in ARGUMENTS]
        summary = self.environment.call(target, given) if v.offset(state.registers[RSP]) == 0 else None
        if summary is None:
            self.outgoing(state)
            self._comes_back()
        elif self._called(summary, given, state):
            self._return(state)

    def _comes_back(self) -> None:
        """Record that the function may return, with an unknown result."""
        self.trace.summary = Summary(returns=UNKNOWN, out={})

    def _return(self, state: CpuState) -> None:
        self.hand_on(state.registers[RAX])
        self.hand_on(self.load(state.registers[RSP], WORD, state))  # pushed by itself: it leads there (a retpoline)
        if self.pair and not state.leftover(RDX):
            self.hand_on(state.registers[RDX])
        summary = self.trace.summary
        value = state.registers[RAX]
        value = UNKNOWN if value[0] is not None else value
        kept = frozenset(r for r in VOLATILE if state.registers[r] == self.first[r])
        summary.kept = kept if summary.returns is None else summary.kept & kept
        summary.returns = value if summary.returns is None else v.join(summary.returns, value)
        out = {key: held for key, held in state.frame.items() if key[0] == FILE or isinstance(key[0], int)}
        summary.out = out if summary.out is None else both(summary.out, out)

    def _call(self, step: InstructionStep, state: CpuState) -> bool:
        """Run a call; return whether it may return."""
        given = [state.registers[r] for r in ARGUMENTS]
        summary: Summary | None = None
        if step.flow == "call?":
            self.hand_on(self.read(step.operands[0], state))
        elif step.target != step.following:
            self.trace.references.add(step.target)
            summary = self.environment.call(step.target, given)
        return self._called(summary, given, state)

    def _called(self, summary: Summary | None, given: Sequence[Value], state: CpuState) -> bool:
        """Change the state as a call does, which is unknown without a summary; return whether the call may return."""
        registers = state.registers
        if summary is not None and summary.returns is None:
            return False
        self.outgoing(state, known=summary is not None)
        for value in given:
            state.escape(value)
        state.forget_escaped()
        forget(state.frame, FILE, None)
        state.called = True
        for register in VOLATILE:
            if summary is None or register not in summary.kept:
                registers[register] = UNKNOWN
        state.flags = None
        if summary is not None:
            if RAX not in summary.kept:
                registers[RAX] = summary.returns or UNKNOWN
            for (base, place), (size, value) in (summary.out or {}).items():
                if isinstance(base, int):
                    self.store(v.add(given[base], v.number(place)), size, value, state)
                else:
                    keep(state.frame, base, place, size, value)
        return True
