"""What a function does on a CPU that answers "no": conditional constant propagation over its blocks.

Registers and the function's own frame are followed bit by bit (`values`). A branch whose condition is known is taken
one way only; what is never come to is not done. So a function that asks CPUID, and runs other code where a bit of
the answer is set, is shown not to run it where that bit is not set: the right bit, in the right sense.

What is assumed: code keeps to the calling convention, writes through pointers only to what they point to, and different
arguments point to different things. What is not understood (vector registers, strings, unknown calls) leaves its
results unknown, and addresses of functions that it may carry away count as used.
"""

from __future__ import annotations

from collections.abc import Sequence

from pikaforge.audit.isa.dispatch import values as v
from pikaforge.audit.isa.dispatch.conditions import holds
from pikaforge.audit.isa.dispatch.instructions import execute
from pikaforge.audit.isa.dispatch.machine import ExecutionState
from pikaforge.audit.isa.dispatch.state import FILE, CpuState, Environment, Frame, Summary, Trace, both, forget, keep
from pikaforge.audit.isa.dispatch.steps import ARGUMENTS, RAX, RSP, VOLATILE, Body, InstructionStep
from pikaforge.audit.isa.dispatch.values import UNKNOWN, Value

VISITS = 64
"""Of one block, after which nothing is kept of registers: a loop that counts would go on for long."""


def run(
    code: Body, around: Environment, *, arguments: Sequence[Value] = (), entries: Sequence[int] = (), loose: bool
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


def _fresh(arguments: Sequence[Value]) -> CpuState:
    registers = [v.pointer(("entry", register)) for register in range(16)]
    registers[RSP] = v.pointer(v.STACK)
    for number, register in enumerate(ARGUMENTS):
        given = arguments[number] if number < len(arguments) else UNKNOWN
        registers[register] = v.pointer(number) if given[0] is not None or not given[1] else given
    return CpuState(registers)


class _Run(ExecutionState):
    def __init__(self, code: Body, around: Environment) -> None:
        super().__init__(around)
        self.code = code
        self.before: dict[int, CpuState] = {}
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
                starts[block] = CpuState([UNKNOWN] * 16)
        if loose or not self.jumps:
            starts |= {block: CpuState([UNKNOWN] * 16) for block in self.code.loose}
        for block, state in starts.items():
            self._enter(block, state)
        while self.waiting:
            # In the order of the code, which is mostly that of the flow: so few blocks are run again.
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
            new = self._joined(old, state, tired=visits > VISITS)
            if new is None:
                return
            self.before[block] = new
        self.waiting.add(block)

    def _joined(self, old: CpuState, new: CpuState, *, tired: bool) -> CpuState | None:
        """Both states in one; None if that is the old one."""
        if old == new:
            return None
        registers = [a if a is b else v.join(a, b) for a, b in zip(old.registers, new.registers, strict=True)]
        if tired:
            registers = [a if a == b else v.unknown(b[3]) for a, b in zip(old.registers, registers, strict=True)]
        frame: Frame = {}
        # What only one way has written to the file: whoever reads it then must not take what was there at the start.
        written = {key for key in old.frame.keys() ^ new.frame.keys() if key[0] == FILE}
        for key, (size, value) in old.frame.items():
            other = new.frame.get(key)
            if other is not None and other[0] == size:
                joined = v.join(value, other[1])
                if tired and joined != value:
                    joined = v.unknown(joined[3])
                frame[key] = (size, joined)
            else:
                self.hand_on(value)
        for key, (_, value) in new.frame.items():
            if key not in frame:
                self.hand_on(value)
        flags = old.flags if old.flags == new.flags else None
        escaped = dict(old.escaped)
        for base, low in new.escaped.items():
            escaped[base] = min(low, escaped.get(base, low))
        joint = CpuState(
            registers, frame, flags, escaped, old.called or new.called or bool(written), old.spent & new.spent
        )
        return None if joint == old else joint

    # ---- one block

    def _block(self, index: int) -> None:
        state = self.before[index].copy()
        block = self.code.blocks[index]
        self.around.spend(block.last - block.first)
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
        """An indirect jump: to a case of a switch, or to another function."""
        self.read(step.operands[0], state)
        self.outgoing(state)
        for block in self.code.loose if self.jumps else ():
            self._enter(block, state)
        self._comes_back()

    def _tail(self, target: int, state: CpuState) -> None:
        """Go on in another function, which returns for this one."""
        self.trace.references.add(target)
        given = [state.registers[r] for r in ARGUMENTS]
        summary = self.around.call(target, given) if v.offset(state.registers[RSP]) == 0 else None
        if summary is None:
            self.outgoing(state)
            self._comes_back()
        elif self._called(summary, given, state):
            self._return(state)

    def _comes_back(self) -> None:
        """It returns, with nothing known."""
        self.trace.summary = Summary(returns=UNKNOWN, out={})

    def _return(self, state: CpuState) -> None:
        # Of a structure of two addresses (%rax and %rdx) the first one is enough: each function must be proven.
        self.hand_on(state.registers[RAX])
        summary = self.trace.summary
        value = state.registers[RAX]
        value = UNKNOWN if value[0] is not None else value
        kept = frozenset(r for r in VOLATILE if state.registers[r] == self.first[r])
        summary.kept = kept if summary.returns is None else summary.kept & kept
        summary.returns = value if summary.returns is None else v.join(summary.returns, value)
        out = {key: held for key, held in state.frame.items() if key[0] == FILE or isinstance(key[0], int)}
        summary.out = out if summary.out is None else both(summary.out, out)

    def _call(self, step: InstructionStep, state: CpuState) -> bool:
        """Whether the call comes back."""
        given = [state.registers[r] for r in ARGUMENTS]
        summary: Summary | None = None
        if step.flow == "call?":
            self.read(step.operands[0], state)
        elif step.target != step.following:
            self.trace.references.add(step.target)
            summary = self.around.call(step.target, given)
        return self._called(summary, given, state)

    def _called(self, summary: Summary | None, given: Sequence[Value], state: CpuState) -> bool:
        """The state after a call; whether it comes back."""
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
