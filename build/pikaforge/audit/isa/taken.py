"""Addresses that code takes, among executable bytes that may be data."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import compress, count
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pikaforge.audit.elf.layout import ET_DYN, Buffer, Layout, mapped
from pikaforge.audit.isa.leads import Spans, one_of
from pikaforge.audit.isa.piece_scan import units
from pikaforge.audit.isa.worker_pool import Chunk

if TYPE_CHECKING:
    from iced_x86 import Instruction

NEAR = 16
"""Bytes that a call at most passes over where it is there for the address that it pushes."""
USES = 8
"""Instructions in which such an address is used."""
ENTRIES = 4096
"""Entries of a jump table that are read."""


class Wanted(NamedTuple):
    """What is looked for in code."""

    spans: Spans
    """Ranges of addresses that may be data."""
    fixed: bool
    """Whether the program's addresses are fixed, so that constants of instructions may be addresses."""
    running: Spans
    """Ranges of addresses that may be executed."""
    loaded: tuple[tuple[int, int, int], ...]
    """What is loaded of the file: addresses of the first byte and of the one behind it, and the offset in the file."""


def wanted(layout: Layout, spans: Spans) -> Wanted:
    """Return what is looked for in the code of a file.

    Args:
        layout: the file's layout.
        spans: ranges of addresses that may be data.
    """
    parts = layout.loaded()
    running = tuple((part.address, part.address + part.memory_size) for part in parts if part.executable)
    loaded = tuple((part.address, part.address + part.file_size, part.offset) for part in parts)
    return Wanted(spans, layout.type != ET_DYN, running, loaded)


def taken(chunk: Chunk, sought: Wanted) -> array[int]:
    """Return the addresses in some ranges that code takes or touches, or to which jump tables lead that it takes.

    Worker processes run this.
    """
    from iced_x86 import Code, Register  # noqa: PLC0415

    opcode, ip_relative = attrgetter("code"), attrgetter("is_ip_rel_memory_operand")
    place, rip = attrgetter("memory_displacement"), int(Register.RIP)
    lea, call = int(Code.LEA_R64_M), int(Code.CALL_REL32_64)
    special = {call: _place_of, **(_constants() if sought.fixed else {})}
    starts = [low for low, _ in sought.spans]
    named: set[int] = set()
    tables: set[int] = set()
    with mapped(Path(chunk.path)) as data:
        for unit in units(chunk, data):
            instructions = unit.instructions
            codes = list(map(opcode, instructions))
            named.update(map(place, compress(instructions, map(ip_relative, instructions))))
            if lea in codes:
                found = compress(instructions, map(lea.__eq__, codes))
                tables.update(one.memory_displacement for one in found if one.memory_base == rip)
            if special.keys().isdisjoint(codes):
                continue
            for number in compress(count(), map(special.__contains__, codes)):
                code = codes[number]
                value = special[code](instructions[number])
                if code != call:
                    named.add(value)
                elif value:
                    users = instructions[number + 1 : number + 1 + USES]
                    named.update(a for one in users for a in _offsets(one, value))
        named.update(jump_tables(data, sought, tables))
    return array("Q", sorted(a for a in named if one_of(a, sought.spans, starts)))


def _place_of(call: Instruction) -> int:
    """Return the address that a call pushes if it is there for that: it leads to what is next. Else return 0."""
    return call.next_ip if 0 <= call.near_branch_target - call.next_ip < NEAR else 0


def _constants() -> dict[int, Callable[[Instruction], int]]:
    """Return the instructions that may load the address of a program whose addresses are fixed, by iced's codes."""
    from iced_x86 import Code  # noqa: PLC0415

    return {
        int(Code.MOV_R32_IMM32): attrgetter("immediate32"),
        int(Code.MOV_R64_IMM64): attrgetter("immediate64"),
        int(Code.MOV_RM64_IMM32): attrgetter("immediate32"),
        int(Code.PUSHQ_IMM32): attrgetter("immediate32"),
    }


def _offsets(one: Instruction, at: int) -> tuple[int, ...]:
    """Return the addresses that an instruction may make of the address of code: it adds to it, or takes from it."""
    from iced_x86 import Mnemonic, OpKind, Register  # noqa: PLC0415

    if one.mnemonic == Mnemonic.LEA and one.memory_base != Register.RIP:
        return ((at + one.memory_displacement) % (1 << 64),)
    if one.mnemonic in {Mnemonic.ADD, Mnemonic.SUB} and one.op1_kind in {OpKind.IMMEDIATE8TO64, OpKind.IMMEDIATE32TO64}:
        value = one.immediate(1)
        return ((at + (value if one.mnemonic == Mnemonic.ADD else -value)) % (1 << 64),)
    return ()


def jump_tables(data: Buffer, sought: Wanted, addresses: Iterable[int]) -> Iterator[int]:
    """Yield the addresses to which jump tables lead: 32-bit offsets from the table's own address.

    gcc and clang make such tables of `switch` in position-independent code. A table ends with the first word that does
    not lead to code.
    """
    for address in addresses:
        for low, high, offset in sought.loaded:
            if low <= address < high:
                at = address - low + offset
                raw = data[at : min(at + 4 * ENTRIES, offset + high - low)]
                for (distance,) in struct.iter_unpack("<i", raw[: len(raw) & ~3]):
                    target = address + distance
                    if not any([first <= target < last for first, last in sought.running]):  # noqa: C419  # faster
                        break
                    yield target
                break
