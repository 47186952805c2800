"""What operands of instructions read and write during an abstract run, and which addresses get out of the function."""

from __future__ import annotations

from pikaforge.audit.isa.dispatch import values as v
from pikaforge.audit.isa.dispatch.state import COMPARED, FILE, CpuState, Environment, Trace, forget, held, keep
from pikaforge.audit.isa.dispatch.steps import ARGUMENTS, NONE, RIP, RSP, Operand
from pikaforge.audit.isa.dispatch.values import NO_ADDRESSES, UNKNOWN, Value

WORD = 8
"""Bytes of a pointer."""
OUTGOING = 128
"""Bytes above the stack pointer that may hold arguments of a call."""


class ExecutionState:
    """The rest of the file, and the trace of what the function does: what instructions need beside the CPU's state."""

    def __init__(self, environment: Environment) -> None:
        self.environment, self.trace = environment, Trace()

    def place(self, operand: Operand, state: CpuState) -> Value:
        """Return the address of a memory operand."""
        if operand.kind != "m" or operand.segment:
            return UNKNOWN
        if operand.register == RIP:
            own = frozenset({operand.value}) if self.environment.names(operand.value) else NO_ADDRESSES
            place = v.number(operand.value, own)
        else:
            place = state.registers[operand.register] if operand.register != NONE else v.ZERO
            if operand.value:
                place = v.add(place, v.number(operand.value, self._own(operand.value)))
        if operand.index_register != NONE:
            index = state.registers[operand.index_register]
            place = v.add(place, v.product(index, v.number(operand.scale)))
        return place

    def _own(self, value: int) -> frozenset[int]:
        """Return the address that a number in an instruction may be, in a file with a fixed address."""
        known = self.environment.fixed and self.environment.names(value)
        return frozenset({value}) if known else NO_ADDRESSES

    def touch(self, place: Value, size: int = 0) -> int | None:
        """Record that data is touched; return its address in the file, or None if that is not known."""
        address = v.known_number(place)
        if address is not None and self.environment.names(address):
            self.trace.references.update(range(address, address + max(size, 1), WORD))
            return address
        self.trace.references |= place[3]
        return None

    def load(self, place: Value, size: int, state: CpuState) -> Value:
        """Return the value at an address."""
        if place[0] is not None:
            at = v.offset(place)
            return UNKNOWN if at is None else held(state.frame, place[0], at, size)
        address = self.touch(place, size)
        if address is None:
            return UNKNOWN
        if any(
            key[0] == FILE and key[1] < address + size and address < key[1] + s for key, (s, _) in state.frame.items()
        ):
            return held(state.frame, FILE, address, size)
        return self.environment.load(address, size, first=not state.called)

    def store(self, place: Value, size: int, value: Value, state: CpuState) -> None:
        """Write a value to an address. If the address is not known, forget everything that it may be."""
        if place[0] is not None:
            at = v.offset(place)
            if at is not None and size:
                keep(state.frame, place[0], at, size, value)
                if place[0] != v.STACK:
                    self.hand_on(value)
                return
        self.hand_on(value)
        address = self.touch(place, size)
        if address is not None and size:
            self.trace.stores.append((address, size, value))
            keep(state.frame, FILE, address, size, value)
            return
        self.trace.handed |= place[3]  # a store to an unknown offset from these addresses
        if place[0] is not None:
            forget(state.frame, place[0], None)
        state.forget_escaped()

    def hand_on(self, value: Value) -> None:
        """Record that a value gets out of the function: the addresses that it may be count as used."""
        if value[3]:
            self.trace.references |= value[3]
            self.trace.handed |= value[3]

    def read(self, operand: Operand, state: CpuState) -> Value:
        """Return the value that an operand reads."""
        if operand.kind == "i":
            return v.number(operand.value, self._own(operand.value))
        if operand.kind == "r":
            whole = state.registers[operand.register]
            return v.low(v.shifted_right(whole, 8, 8, sign=False) if operand.shift else whole, operand.size)
        if operand.kind == "m":
            return v.low(self.load(self.place(operand, state), operand.size, state), operand.size)
        return UNKNOWN

    def write(self, operand: Operand, value: Value, state: CpuState) -> None:
        """Write a value to an operand."""
        if operand.kind == "r":
            old = state.registers[operand.register]
            size = operand.size
            new = v.low(value, 4) if size == 4 else v.merged(old, v.low(value, size), size, operand.shift)
            state.registers[operand.register] = new
            state.spent &= ~((1 | COMPARED) << operand.register)
        elif operand.kind == "m":
            self.store(self.place(operand, state), operand.size, value, state)
        else:
            self.hand_on(value)

    def outgoing(self, state: CpuState, *, known: bool = False) -> None:
        """Record that another function gets control: it may use its arguments, and what memory holds.

        If it is known what the function does, then it is also known what it does with arguments in registers.
        """
        for register in () if known else ARGUMENTS:
            if not state.spent >> register & 1:
                self.hand_on(state.registers[register])
        top = v.offset(state.registers[RSP])
        base = state.registers[RSP][0]
        for (holder, place), (_, value) in state.frame.items():
            if value[3] and (top is None or holder != base or top <= place < top + OUTGOING):
                self.hand_on(value)
