"""Run single instructions on abstract values (Intel SDM vol. 2). Those that are not here leave unknown results."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pikaforge.audit.isa.dispatch import values as v
from pikaforge.audit.isa.dispatch.conditions import holds
from pikaforge.audit.isa.dispatch.machine import ExecutionState
from pikaforge.audit.isa.dispatch.state import COMPARED, CpuState, forget
from pikaforge.audit.isa.dispatch.steps import RAX, RBP, RBX, RCX, RDX, RSP, InstructionStep, Operand
from pikaforge.audit.isa.dispatch.values import NO_ADDRESSES, UNKNOWN

ANSWERS = (("eax", RAX), ("ebx", RBX), ("ecx", RCX), ("edx", RDX))


def execute(machine: ExecutionState, step: InstructionStep, state: CpuState) -> None:
    """Run one instruction that is neither a jump nor a call."""
    handler = HANDLERS.get(step.name)
    if handler is None or any(o.kind not in ("r", "m", "i") for o in step.operands):
        _other(machine, step, state)
    else:
        handler(machine, step, state)


def _other(machine: ExecutionState, step: InstructionStep, state: CpuState) -> None:
    """Run an instruction of any kind: what it reads gets out of the function, and what it writes is unknown."""
    for register in step.reads:
        machine.hand_on(state.registers[register])
    for operand in step.operands:
        if operand.kind == "m":
            machine.touch(machine.place(operand, state), operand.size)
    if step.stores:
        written = next((o for o in step.operands if o.kind == "m"), None)
        if written is not None:
            machine.store(machine.place(written, state), written.size, UNKNOWN, state)
        else:  # a string instruction, which writes from one of these addresses on
            for register in step.reads:
                value = state.registers[register]
                if value[0] is not None:
                    forget(state.frame, value[0], v.offset(value))
            machine.store(UNKNOWN, 0, UNKNOWN, state)
    for register in step.writes:
        state.registers[register] = UNKNOWN
    if step.flags:
        state.flags = None


def _move(machine: ExecutionState, step: InstructionStep, state: CpuState) -> None:
    target, source = step.operands
    value = machine.read(source, state)
    if step.name in ("MOVSX", "MOVSXD"):
        value = v.extended(value, source.size)
    elif source.kind == "i":
        value = v.low(value, target.size)
    machine.write(target, value, state)


def _lea(machine: ExecutionState, step: InstructionStep, state: CpuState) -> None:
    machine.write(step.operands[0], machine.place(step.operands[1], state), state)


def _logic(machine: ExecutionState, step: InstructionStep, state: CpuState) -> None:
    target, source = step.operands
    size = target.size
    a = b = v.ZERO
    if target == source and target.kind == "r" and step.name in ("XOR", "SUB"):
        value = v.ZERO
    elif step.name == "AND" and target == Operand("r", 8, RSP) and source.kind == "i":
        # The function aligns its frame: the distance to the old frame is not known, so the new one has its own base.
        state.registers[RSP] = v.pointer(("aligned", step.address))
        state.flags = None
        return
    else:
        a, b = machine.read(target, state), machine.read(source, state)
        value = _OPERATIONS[step.name](a, v.low(b, size))
    value = v.low(value, size) if size < 8 else value
    machine.write(target, value, state)
    if step.name == "SUB":
        state.flags = ("compare", a, v.low(b, size), size)
    else:
        state.flags = ("sum" if step.name == "ADD" else "result", value, UNKNOWN, size)


def _test(machine: ExecutionState, step: InstructionStep, state: CpuState) -> None:
    a, b = (machine.read(o, state) for o in step.operands)
    size = step.operands[0].size
    state.flags = ("result", v.and_(a, b) if step.operands[0] != step.operands[1] else a, UNKNOWN, size)


def _compare(machine: ExecutionState, step: InstructionStep, state: CpuState) -> None:
    a, b = (machine.read(o, state) for o in step.operands)
    size = step.operands[0].size
    state.flags = ("compare", a, v.low(b, size), size)
    for operand in step.operands:
        if operand.kind == "r":
            state.spent |= COMPARED << operand.register


def _unary(machine: ExecutionState, step: InstructionStep, state: CpuState) -> None:
    [operand] = step.operands
    value = machine.read(operand, state)
    result = {
        "NOT": lambda: v.not_(value),
        "NEG": lambda: v.negative(value),
        "INC": lambda: v.add(value, v.number(1)),
        "DEC": lambda: v.sub(value, v.number(1)),
    }[step.name]()
    result = v.low(result, operand.size)
    machine.write(operand, result, state)
    if step.name != "NOT":
        state.flags = ("sum", result, UNKNOWN, operand.size)


def _shift(machine: ExecutionState, step: InstructionStep, state: CpuState) -> None:
    target = step.operands[0]
    value = machine.read(target, state)
    count = v.known_number(machine.read(step.operands[1], state), 1) if len(step.operands) > 1 else 1
    if count is None:
        result = value if v.is_zero(value, target.size) else v.unknown(value[3])
        machine.write(target, result, state)
        state.flags = None
        return
    count &= 63 if target.size == 8 else 31
    if step.name == "SHL":
        result = v.low(v.shifted_left(value, count), target.size)
    else:
        result = v.low(v.shifted_right(value, count, target.size, sign=step.name == "SAR"), target.size)
    machine.write(target, result, state)
    if count:
        state.flags = ("sum", result, UNKNOWN, target.size)


def _bit(machine: ExecutionState, step: InstructionStep, state: CpuState) -> None:
    target, source = step.operands
    if target.kind == "m" and source.kind != "i":
        _other(machine, step, state)  # the bit may be in another word
        return
    value, count = machine.read(target, state), v.known_number(machine.read(source, state), 1)
    if count is None:
        state.flags = None
        return
    one = v.shifted_right(value, count % (8 * target.size), 8, sign=False)
    state.flags = ("bit", v.and_(one, v.number(1)), UNKNOWN, 1)


def _set_if(machine: ExecutionState, step: InstructionStep, state: CpuState) -> None:
    found = holds(step.condition, state.flags)
    value = (None, v.ALL & ~1, 0, NO_ADDRESSES) if found is None else v.number(int(found))
    target = step.operands[0]
    machine.write(target, value, state)
    if target.kind == "r":  # what is left of an address in the register's other bytes is no address any more
        state.registers[target.register] = (*state.registers[target.register][:3], NO_ADDRESSES)


def _move_if(machine: ExecutionState, step: InstructionStep, state: CpuState) -> None:
    target, source = step.operands
    found = holds(step.condition, state.flags)
    old, new = machine.read(target, state), machine.read(source, state)
    machine.write(target, v.join(old, new) if found is None else new if found else old, state)
    if found is False and source.kind == "r" and source != target:
        state.spent |= 1 << source.register


def _borrow(machine: ExecutionState, step: InstructionStep, state: CpuState) -> None:
    target, source = step.operands
    carry = holds("b", state.flags)
    if target != source or target.kind != "r" or carry is None:
        _other(machine, step, state)
        return
    value = v.low(v.number(-1 if carry else 0), target.size)
    machine.write(target, value, state)
    state.flags = ("compare", v.ZERO, v.number(int(carry)), target.size)


def _push(machine: ExecutionState, step: InstructionStep, state: CpuState) -> None:
    value = machine.read(step.operands[0], state)
    state.registers[RSP] = v.add(state.registers[RSP], v.number(-8))
    machine.store(state.registers[RSP], 8, value, state)


def _pop(machine: ExecutionState, step: InstructionStep, state: CpuState) -> None:
    value = machine.load(state.registers[RSP], 8, state)
    state.registers[RSP] = v.add(state.registers[RSP], v.number(8))
    machine.write(step.operands[0], value, state)


def _leave(machine: ExecutionState, _step: InstructionStep, state: CpuState) -> None:
    state.registers[RSP] = state.registers[RBP]
    state.registers[RBP] = machine.load(state.registers[RSP], 8, state)
    state.registers[RSP] = v.add(state.registers[RSP], v.number(8))


def _exchange(machine: ExecutionState, step: InstructionStep, state: CpuState) -> None:
    a, b = step.operands
    first, second = machine.read(a, state), machine.read(b, state)
    machine.write(a, second, state)
    machine.write(b, first, state)


def _widen(machine: ExecutionState, step: InstructionStep, state: CpuState) -> None:
    value = state.registers[RAX]
    if step.name in ("CDQE", "CWDE"):
        size = 4 if step.name == "CDQE" else 2
        value = v.extended(v.low(value, size), size)
        state.registers[RAX] = value if size == 4 else v.low(value, 4)
        return
    size = 8 if step.name == "CQO" else 4
    sign = v.sign_of(value, size)
    state.registers[RDX] = UNKNOWN if sign is None else v.low(v.number(-1 if sign else 0), size)


def _multiply(machine: ExecutionState, step: InstructionStep, state: CpuState) -> None:
    if len(step.operands) < 2:
        _other(machine, step, state)
        return
    target = step.operands[0]
    a, b = (machine.read(o, state) for o in step.operands[-2:])
    machine.write(target, v.low(v.product(a, b), target.size), state)
    state.flags = None


def _cpuid(machine: ExecutionState, _step: InstructionStep, state: CpuState) -> None:
    registers = state.registers
    leaf, part = (v.known_number(registers[r], 4) for r in (RAX, RCX))
    absent = machine.environment.answer(leaf, part)
    upper = v.ALL & ~v.mask(4)
    for name, register in ANSWERS:
        registers[register] = (None, upper | absent.get(name, 0), 0, NO_ADDRESSES)


def _nothing(machine: ExecutionState, _step: InstructionStep, _state: CpuState) -> None:
    return


_OPERATIONS = {"AND": v.and_, "OR": v.or_, "XOR": v.xor, "ADD": v.add, "SUB": v.sub}
HANDLERS: Mapping[str, Callable[[ExecutionState, InstructionStep, CpuState], None]] = {
    **dict.fromkeys(("MOV", "MOVZX", "MOVSX", "MOVSXD"), _move),
    **dict.fromkeys(_OPERATIONS, _logic),
    **dict.fromkeys(("NOT", "NEG", "INC", "DEC"), _unary),
    **dict.fromkeys(("SHL", "SHR", "SAR"), _shift),
    **dict.fromkeys(("CDQE", "CWDE", "CDQ", "CQO"), _widen),
    **dict.fromkeys(("NOP", "ENDBR64", "PAUSE", "LFENCE", "MFENCE", "CLD"), _nothing),
    "LEA": _lea, "TEST": _test, "CMP": _compare, "BT": _bit, "SET": _set_if,
    "CMOV": _move_if, "SBB": _borrow, "PUSH": _push, "POP": _pop, "LEAVE": _leave,
    "XCHG": _exchange, "IMUL": _multiply, "CPUID": _cpuid,
}  # fmt: skip
