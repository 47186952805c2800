"""The instructions of a function, in the form in which `flow` runs them, cut into basic blocks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from iced_x86 import Instruction, InstructionInfoFactory

NONE = -1
"""The number that stands for no register."""
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9 = range(10)
RIP = 16
KEPT = 1 << 14
"""Instructions that are kept in mind by their bytes."""
ARGUMENTS = (RDI, RSI, RDX, RCX, R8, R9)
"""Registers of integer arguments, in their order (System V ABI for x86-64, 3.2.3)."""
VOLATILE = (RAX, RCX, RDX, RSI, RDI, 8, 9, 10, 11)
"""Registers that a call may change."""
STOP = frozenset({"UD0", "UD1", "UD2", "HLT", "INT3"})
"""Instructions after which the program does not go on."""
PADDING = frozenset({"NOP", "INT3", "FNOP"})
"""Instructions that fill gaps between functions."""


class Operand(NamedTuple):
    """An operand of an instruction."""

    kind: str
    """`r` register, `m` memory, `i` immediate; empty for others (vector registers, segments)."""
    size: int
    """In bytes."""
    register: int = NONE
    """Number of the whole register; of memory its base register (`RIP`: `value` is the whole address)."""
    shift: int = 0
    """8 for %ah, %bh, %ch and %dh, else 0."""
    index_register: int = NONE
    scale: int = 1
    value: int = 0
    """An immediate's value, or the displacement of memory."""
    segment: bool = False
    """Whether the address is relative to a segment register (%fs, %gs)."""


def touches(operand: Operand, address: int) -> bool:
    """Return whether an operand is memory at a fixed place that includes an address."""
    fixed = operand.kind == "m" and operand.register == RIP and operand.index_register == NONE
    return fixed and operand.value <= address < operand.value + max(operand.size, 1)


@dataclass(frozen=True, slots=True)
class InstructionStep:
    """One instruction."""

    address: int
    following: int
    code: int
    """iced's Code, which determines the features."""
    name: str
    """The mnemonic in capitals; SET and CMOV have their condition in `condition`."""
    condition: str
    """`e`, `ne`, `b`, …; empty without one."""
    flow: str
    """`next`, `jump`, `branch`, `call`, `return`, `stop`, `jump?` and `call?` (indirect)."""
    target: int
    """The address that a direct jump or call leads to."""
    operands: tuple[Operand, ...]
    writes: tuple[int, ...]
    """Whole registers that are written."""
    reads: tuple[int, ...]
    stores: bool
    """Whether it writes to memory, which includes the stack."""
    flags: bool
    """Whether it changes the flags that conditions read."""


@dataclass(frozen=True, slots=True)
class Block:
    """A basic block: instructions that run one after another."""

    first: int
    """Index of the first instruction."""
    last: int
    """Index after the last instruction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """The code of one piece, as basic blocks."""

    start: int
    end: int
    steps: tuple[InstructionStep, ...]
    blocks: tuple[Block, ...]
    following: tuple[tuple[int, ...], ...]
    """The blocks that may follow each block; after a branch first the one for a true condition."""
    sound: bool
    """Whether it was decoded as a whole. If bytes are no instruction, or a jump leads into one, nothing is proven."""
    loose: tuple[int, ...]
    """Blocks without a visible predecessor that are no padding: cases of a switch, exception handlers."""

    def block_at(self, address: int) -> int:
        """Return the index of the block that begins at an address; -1 if none does."""
        for index, block in enumerate(self.blocks):
            if self.steps[block.first].address == address:
                return index
        return -1


def body(raw: bytes, start: int, entries: Iterable[int] = ()) -> Body:
    """Decode a piece of code and cut it into blocks.

    Args:
        raw: its bytes.
        start: its address.
        entries: addresses in it, beside the start, at which other code enters it.
    """
    steps = tuple(_decode(raw, start))
    end = start + len(raw)
    places = {step.address: index for index, step in enumerate(steps)}
    sound = bool(steps) and all(step.name != "INVALID" for step in steps)
    leaders = {0}
    for entry in entries:
        if start <= entry < end:
            sound = sound and entry in places
            leaders.add(places.get(entry, 0))
    for index, step in enumerate(steps):
        if step.flow in ("jump", "branch") and start <= step.target < end:
            sound = sound and step.target in places
            leaders.add(places.get(step.target, 0))
        if step.flow not in ("next", "call", "call?") and index + 1 < len(steps):
            leaders.add(index + 1)
    cuts = sorted(leaders)
    blocks = tuple(Block(a, b) for a, b in zip(cuts, [*cuts[1:], len(steps)], strict=True)) if steps else ()
    following = tuple(_next(steps, blocks, block, places, cuts) for block in blocks)
    reached = {0, *(b for targets in following for b in targets)}
    entered = {bisect_right(cuts, places[e]) - 1 for e in entries if e in places}
    loose = tuple(
        index
        for index, block in enumerate(blocks)
        if index not in reached and index not in entered and not _padding(steps[block.first : block.last])
    )
    # A block that only padding leads to has no predecessor, because nothing runs into padding.
    return _without_padding(
        Body(start=start, end=end, steps=steps, blocks=blocks, following=following, sound=sound, loose=loose), entered
    )


def _without_padding(code: Body, entered: set[int]) -> Body:
    idle = {
        index
        for index, block in enumerate(code.blocks)
        if index and index not in entered and _padding(code.steps[block.first : block.last])
    }
    led = {t for index, targets in enumerate(code.following) if index not in idle for t in targets}
    idle -= led
    reached = {0, *entered, *(t for i, targets in enumerate(code.following) if i not in idle for t in targets)}
    loose = tuple(i for i in range(len(code.blocks)) if i not in reached and i not in idle)
    following = tuple(() if i in idle else targets for i, targets in enumerate(code.following))
    return Body(
        start=code.start, end=code.end, steps=code.steps, blocks=code.blocks, following=following, sound=code.sound,
        loose=loose,
    )  # fmt: skip


def _padding(steps: Sequence[InstructionStep]) -> bool:
    return all(step.name in PADDING for step in steps)


def _next(
    steps: tuple[InstructionStep, ...], blocks: tuple[Block, ...], block: Block, places: dict[int, int], cuts: list[int]
) -> tuple[int, ...]:
    last = steps[block.last - 1]
    through = bisect_right(cuts, block.last) - 1 if block.last < len(steps) else None
    out: list[int] = []
    if last.flow in ("jump", "branch") and last.target in places:
        out.append(bisect_right(cuts, places[last.target]) - 1)
    if last.flow in ("next", "call", "call?", "branch") and through is not None:
        out.append(through)
    return tuple(out)


class _Words(NamedTuple):
    """Tables from iced's numbers to the values that this module uses."""

    mnemonics: dict[int, str]
    conditions: dict[int, str]
    flows: dict[int, str]
    registers: dict[int, tuple[str, int, int, int]]
    """Kind (`r`, `v` for vectors, empty for none), number of the whole register, bytes, shift."""
    sizes: dict[int, int]
    """Number of bytes, by iced's MemorySize."""
    register: int
    memory: int
    immediates: frozenset[int]
    segments: frozenset[int]
    flags: int
    reading: frozenset[int]
    writing: frozenset[int]


FLOWS = {
    "NEXT": "next",
    "UNCONDITIONAL_BRANCH": "jump",
    "INDIRECT_BRANCH": "jump?",
    "CONDITIONAL_BRANCH": "branch",
    "RETURN": "return",
    "CALL": "call",
    "INDIRECT_CALL": "call?",
    "INTERRUPT": "next",
    "XBEGIN_XABORT_XEND": "branch",
    "EXCEPTION": "stop",
}


@lru_cache(maxsize=1)
def _words() -> _Words:
    from iced_x86 import (  # noqa: PLC0415
        ConditionCode,
        FlowControl,
        MemorySize,
        MemorySizeExt,
        Mnemonic,
        OpAccess,
        OpKind,
        Register,
        RegisterExt,
        RflagsBits,
    )

    registers: dict[int, tuple[str, int, int, int]] = {0: ("", NONE, 0, 0)}
    for number in _constants(Register).values():
        if number and RegisterExt.is_gpr(number):  # type: ignore[arg-type]  # an IntEnum for mypy, an int at run time
            whole = RegisterExt.number(RegisterExt.full_register(number))  # type: ignore[arg-type]
            high = Register.AH <= number <= Register.BH
            registers[number] = ("r", whole, RegisterExt.size(number), 8 if high else 0)  # type: ignore[arg-type]
        elif number:
            registers[number] = ("v", NONE, RegisterExt.size(number), 0)  # type: ignore[arg-type]
    flags = ("OF", "SF", "ZF", "CF", "PF")
    return _Words(
        mnemonics={n: name for name, n in _constants(Mnemonic).items()},
        conditions={n: "" if name == "NONE" else name.lower() for name, n in _constants(ConditionCode).items()},
        flows={n: FLOWS[name] for name, n in _constants(FlowControl).items()},
        registers=registers,
        sizes={n: MemorySizeExt.size(n) for n in _constants(MemorySize).values()},  # type: ignore[arg-type]
        register=int(OpKind.REGISTER),
        memory=int(OpKind.MEMORY),
        immediates=frozenset(n for name, n in _constants(OpKind).items() if name.startswith("IMMEDIATE")),
        segments=frozenset({int(Register.FS), int(Register.GS)}),
        flags=sum(int(getattr(RflagsBits, name)) for name in flags),
        reading=frozenset(n for name, n in _constants(OpAccess).items() if "READ" in name),
        writing=frozenset(n for name, n in _constants(OpAccess).items() if "WRITE" in name),
    )


def _constants(holder: object) -> dict[str, int]:
    return {
        name: int(value)
        for name in dir(holder)
        if name[0].isupper() and name != holder.__name__ and isinstance(value := getattr(holder, name), int)  # type: ignore[attr-defined]
    }


def _decode(raw: bytes, start: int) -> Iterator[InstructionStep]:
    from iced_x86 import Decoder, InstructionInfoFactory  # noqa: PLC0415

    factory = InstructionInfoFactory()
    words, kept = _words(), _kept()
    for instruction in Decoder(64, raw, ip=start):
        at = instruction.ip - start
        code = raw[at : at + instruction.len]
        facts = kept.get(code)
        if facts is None:
            facts = _facts(instruction, factory, words)
            own = facts.flow in ("jump", "branch", "call") or instruction.is_ip_rel_memory_operand
            if not own and instruction.code:
                if len(kept) >= KEPT:
                    kept.clear()
                kept[code] = facts
        yield InstructionStep(instruction.ip, instruction.next_ip, *facts)


class _Facts(NamedTuple):
    """The fields of an `InstructionStep` but for its addresses."""

    code: int
    name: str
    condition: str
    flow: str
    target: int
    operands: tuple[Operand, ...]
    writes: tuple[int, ...]
    reads: tuple[int, ...]
    stores: bool
    flags: bool


@lru_cache(maxsize=1)
def _kept() -> dict[bytes, _Facts]:
    """Return what is known of instructions without a target, by their bytes: it takes less time and memory."""
    return {}


def _facts(instruction: Instruction, factory: InstructionInfoFactory, words: _Words) -> _Facts:
    info = factory.info(instruction)
    used = [(words.registers[r.register], r.access) for r in info.used_registers()]
    condition = words.conditions[instruction.condition_code]
    name = words.mnemonics[instruction.mnemonic]
    if condition:
        name = next((kind for kind in ("SET", "CMOV") if name.startswith(kind)), name)
    flow = "stop" if name in STOP else words.flows[instruction.flow_control]
    return _Facts(
        code=instruction.code,
        name=name,
        condition=condition,
        flow=flow,
        target=instruction.near_branch_target if flow in ("jump", "branch", "call") else 0,
        operands=tuple(_operand(instruction, index, words) for index in range(instruction.op_count)),
        writes=tuple(dict.fromkeys(r[1] for r, access in used if r[0] == "r" and access in words.writing)),
        reads=tuple(dict.fromkeys(r[1] for r, access in used if r[0] == "r" and access in words.reading)),
        stores=any(m.access in words.writing for m in info.used_memory()),
        flags=bool(instruction.rflags_modified & words.flags),
    )


def _operand(instruction: Instruction, index: int, words: _Words) -> Operand:
    kind = instruction.op_kind(index)
    if kind == words.register:
        name, register, size, shift = words.registers[instruction.op_register(index)]
        return Operand(name, size, register, shift)
    if kind == words.memory:
        base = words.registers[instruction.memory_base]
        other = words.registers[instruction.memory_index]
        whole = instruction.is_ip_rel_memory_operand or instruction.memory_base == 0
        return Operand(
            kind="" if other[0] == "v" else "m",
            size=words.sizes[instruction.memory_size],
            register=RIP if whole else base[1],
            index_register=other[1],
            scale=instruction.memory_index_scale,
            value=instruction.memory_displacement,
            segment=instruction.memory_segment in words.segments,
        )
    if kind in words.immediates:
        return Operand("i", 8, value=instruction.immediate(index))
    return Operand("", 0)
