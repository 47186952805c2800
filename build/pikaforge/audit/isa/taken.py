"""Addresses that code takes, among executable bytes that may be data.

Position-independent code names them by their distance, in a field of 32 bits. So fields that lead there are looked for
in the bytes, and only pieces with such a field are decoded. At fixed addresses a constant of an instruction may be an
address, too: all of that code is decoded.
"""

from __future__ import annotations

import re
import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress, count, zip_longest
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pikaforge.audit.elf.layout import ET_DYN, Buffer, Layout, mapped
from pikaforge.audit.isa.leads import Spans, one_of
from pikaforge.audit.isa.opcodes import LONGEST
from pikaforge.audit.isa.piece_scan import units
from pikaforge.audit.isa.ranges import LAST, TABLE, CodeMap
from pikaforge.audit.isa.stretches import stretches
from pikaforge.audit.isa.swept import QUICK_BYTES
from pikaforge.audit.isa.worker_pool import Chunk

if TYPE_CHECKING:
    from iced_x86 import Instruction

NEAR = 16
"""Bytes that a call at most passes over where it is there for the address that it pushes."""
USES = 8
"""Instructions in which such an address is used."""
ENTRIES = 4096
"""Entries of a jump table that are read."""
FIELD, IMMEDIATE = 4, 4
"""Bytes of a distance, and the most that may follow it in its instruction."""
_MODRM = rb"[\x05\x0d\x15\x1d\x25\x2d\x35\x3d]"
"""The byte before a distance from the next instruction (Intel SDM vol. 2A table 2-7)."""
_LEA = re.compile(rb"\x8d" + _MODRM + rb"(?=(....))", re.DOTALL)
_CALL = re.compile(rb"\xe8[\x00-\x0f]\0\0\0")
"""A call that passes over fewer than `NEAR` bytes."""


class Wanted(NamedTuple):
    """What is looked for in code."""

    spans: Spans
    """Ranges of addresses that may be data."""
    fixed: bool
    """Whether the program's addresses are fixed, so that constants of instructions may be addresses."""
    running: tuple[int, int]
    """The range of addresses that has all pieces of code."""
    loaded: tuple[tuple[int, int, int], ...]
    """What is loaded of the file: addresses of the first byte and of the one behind it, and the offset in the file."""
    quick: bool = False
    """Whether there is so much code that numpy looks for fields."""


def wanted(layout: Layout, code: CodeMap, spans: Spans) -> Wanted:
    """Return what is looked for in the code of a file.

    Args:
        layout: the file's layout.
        code: its pieces.
        spans: ranges of addresses that may be data.
    """
    loaded = tuple((part.address, part.address + part.file_size, part.offset) for part in layout.loaded())
    running = (code.starts[0], code.ends[-1]) if len(code) else (0, 0)
    return Wanted(spans, layout.type != ET_DYN, running, loaded, code.size >= QUICK_BYTES)


def taken(chunk: Chunk, sought: Wanted) -> array[int]:
    """Return the addresses in some ranges that code takes or touches, or to which jump tables lead that it takes.

    Worker processes run this.
    """
    starts = [low for low, _ in sought.spans]
    with mapped(Path(chunk.path)) as data:
        find = _pieces_at_once if sought.quick else _pieces
        wanted, tables = (None, set[int]()) if sought.fixed else find(chunk, data, sought)
        named = _in_pieces(chunk, data, sought, wanted, tables) if wanted is None or wanted else set[int]()
        named.update(jump_tables(data, sought, tables))
    return array("Q", sorted(a for a in named if one_of(a, sought.spans, starts)))


def _pieces(chunk: Chunk, data: Buffer, sought: Wanted) -> tuple[frozenset[int], set[int]]:
    """Return the indexes of the pieces that may name an address in one of the ranges, and addresses taken by LEA."""
    starts = [low for low, _ in sought.spans]
    pattern = _fields(chunk, sought.spans)
    wanted: set[int] = set()
    tables: set[int] = set()
    for index, (start, end, offset) in enumerate(
        zip(chunk.starts, chunk.ends, chunk.offsets, strict=True), chunk.first
    ):
        size = end - start
        raw = bytes(data[offset : offset + size + LONGEST])
        for found in _LEA.finditer(raw, 0, size + FIELD):
            tables.add(start + found.end() + FIELD + int.from_bytes(found[1], "little", signed=True))
        places = [
            found.end() for found in pattern.finditer(raw) if may_lead(raw, found.end(), start, sought.spans, starts)
        ]
        places += [found.start() for found in _CALL.finditer(raw)]
        if any(at <= size for at in places):
            wanted.add(index)
        if index in chunk.cuts and any(at <= LONGEST for at in places):  # the instruction may begin before the cut
            wanted.add(index - 1)
    return chunk.with_gaps(index for index in wanted if chunk.kinds[index - chunk.first] != TABLE), tables


def _pieces_at_once(chunk: Chunk, data: Buffer, sought: Wanted) -> tuple[frozenset[int], set[int]]:
    """Do what `_pieces` does, with numpy."""
    from pikaforge.audit.isa.swept.fields import referring  # noqa: PLC0415

    wanted: set[int] = set()
    tables: set[int] = set()
    for stretch in stretches(chunk, data, beyond=LONGEST):
        first, address = stretch.first, stretch.address
        starts, ends = ([at - address for at in some[first : stretch.last]] for some in (chunk.starts, chunk.ends))
        found = referring(stretch.raw, address, (starts, ends), sought.spans, NEAR)
        tables.update(address + at for at in found.taken)
        wanted.update(chunk.first + first + number for number in found.pieces)
        for index in chunk.cuts:
            number = index - chunk.first - first
            if 0 <= number < len(starts):
                start, end = starts[number], ends[number] + LONGEST
                # The instruction may begin before the cut.
                field = any_between(found.fields, start + 1, min(start + LONGEST, end - FIELD))
                if field or any_between(found.calls, start, min(start + LONGEST, end - FIELD - 1)):
                    wanted.add(index - 1)
    return chunk.with_gaps(index for index in wanted if chunk.kinds[index - chunk.first] != TABLE), tables


def any_between(places: Sequence[int], first: int, last: int) -> bool:
    """Return whether one of some ascending places is from a first to a last one."""
    at = bisect_left(places, first)
    return at < len(places) and places[at] <= last


def _fields(chunk: Chunk, spans: Spans) -> re.Pattern[bytes]:
    """Return a pattern for the byte before a field that may lead from a chunk to one of some ranges."""
    nearest = spans[0][0] - chunk.ends[-1] - FIELD - IMMEDIATE
    farthest = spans[-1][1] - chunk.starts[0]
    if farthest - nearest >= 1 << 32:
        return re.compile(_MODRM)
    uppers = {upper & 0xFF for upper in range(nearest >> 24, (farthest >> 24) + 1)}
    return re.compile(
        _MODRM + rb"(?=...[" + b"".join(b"\\x%02x" % upper for upper in sorted(uppers)) + rb"])", re.DOTALL
    )


def may_lead(raw: bytes, at: int, start: int, spans: Spans, starts: list[int]) -> bool:
    """Return whether the field at an offset leads into one of some ranges, whatever follows it in its instruction.

    Args:
        raw: the bytes.
        at: the offset of the field.
        start: the address of the first byte.
        spans: the ranges, ascending and disjoint.
        starts: their starts.
    """
    low = start + at + FIELD + int.from_bytes(raw[at : at + FIELD], "little", signed=True)
    number = bisect_right(starts, low + IMMEDIATE) - 1
    return number >= 0 and low < spans[number][1]


def _in_pieces(chunk: Chunk, data: Buffer, sought: Wanted, wanted: frozenset[int] | None, tables: set[int]) -> set[int]:
    """Return the addresses that some pieces take or touch, and add those that they take by LEA to `tables`."""
    from iced_x86 import Code, Register  # noqa: PLC0415

    opcode, ip_relative = attrgetter("code"), attrgetter("is_ip_rel_memory_operand")
    place, rip = attrgetter("memory_displacement"), int(Register.RIP)
    lea, call = int(Code.LEA_R64_M), int(Code.CALL_REL32_64)
    special = {call: _place_of, **(_constants() if sought.fixed else {})}
    named: set[int] = set()
    for unit in units(chunk, data, wanted=wanted):
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
    return named


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
    not lead to code, or to what may be code, and where the next one begins.
    """
    starts = [low for low, _ in sought.spans]
    first, last = sought.running
    ordered = sorted(addresses)
    for address, following in zip_longest(ordered, ordered[1:], fillvalue=LAST):
        for low, high, offset in sought.loaded:
            if low <= address < high:
                at = address - low + offset
                raw = data[at : at + min(ENTRIES * FIELD, high - address, following - address)]
                for (distance,) in struct.iter_unpack("<i", raw[: len(raw) & ~3]):
                    target = address + distance
                    if not first <= target < last and not one_of(target, sought.spans, starts):
                        break
                    yield target
                break
