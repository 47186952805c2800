"""Addresses that code takes, among executable bytes that may be data."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pikaforge.audit.elf.layout import Buffer, Layout, mapped
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


def taken(chunk: Chunk, wanted: Wanted) -> tuple[array[int], array[int]]:
    """Return the addresses in some ranges that code takes or touches, and those elsewhere that it takes.

    The latter may be those of jump tables. Worker processes run this.
    """
    from iced_x86 import Code, Register  # noqa: PLC0415

    look = attrgetter("code", "memory_base", "memory_displacement")
    rip, lea, call = int(Register.RIP), int(Code.LEA_R64_M), int(Code.CALL_REL32_64)
    special = {call: _place_of, **(_constants() if wanted.fixed else {})}
    starts = [low for low, _ in wanted.spans]
    found: set[int] = set()
    tables: set[int] = set()
    with mapped(Path(chunk.path)) as data:
        for unit in units(chunk, data):
            instructions = unit.instructions
            for number, (code, base, named) in enumerate(map(look, instructions)):
                if base == rip:
                    if one_of(named, wanted.spans, starts):
                        found.add(named)
                    if code == lea:
                        tables.add(named)
                elif code in special:
                    value = special[code](instructions[number])
                    if code != call:
                        found.update(a for a in (value,) if one_of(a, wanted.spans, starts))
                    elif value:
                        users = instructions[number + 1 : number + 1 + USES]
                        made = (a for one in users for a in _offsets(one, value))
                        found.update(a for a in made if one_of(a, wanted.spans, starts))
    return array("Q", sorted(found)), array("Q", sorted(tables))


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


def jump_tables(data: Buffer, layout: Layout, addresses: Iterable[int], spans: Spans) -> Iterator[int]:
    """Yield the addresses in some ranges to which jump tables lead: 32-bit offsets from the table's own address.

    gcc and clang make such tables of `switch` in position-independent code. A table ends with the first word that does
    not lead to code.
    """
    starts = [low for low, _ in spans]
    running = [(part.address, part.address + part.memory_size) for part in layout.loaded() if part.executable]
    for address in addresses:
        place = layout.offset_of(address)
        if place is None:
            continue
        for number in range(ENTRIES):
            raw = data[place + 4 * number : place + 4 * number + 4]
            target = address + int.from_bytes(raw, "little", signed=True)
            if len(raw) < 4 or not any(low <= target < high for low, high in running):
                break
            if one_of(target, spans, starts):
                yield target
