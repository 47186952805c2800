"""Ranges and names of functions by Go's table `.gopclntab`, which strip keeps, because Go's runtime needs it.

Format: Go's src/internal/abi/symtab.go (magic numbers), src/debug/gosym/pclntab.go (all versions, from Go 1.2 on) and
src/runtime/symtab.go (the header). Numbers are little-endian, and pointers have 8 bytes on x86-64.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from operator import gt

from pikaforge.audit.elf.layout import PF_X, PT_LOAD, SHT_RELA, Buffer, Layout, Section, Segment, find

SECTION = ".gopclntab"
MAGIC_2, MAGIC_16, MAGIC_18, MAGIC_20 = 0xFFFFFFFB, 0xFFFFFFFA, 0xFFFFFFF0, 0xFFFFFFF1
"""Of Go 1.2, 1.16, 1.18 and 1.20, and of the versions that follow each."""
MAGICS = frozenset({MAGIC_2, MAGIC_16, MAGIC_18, MAGIC_20})
SHAPE = b"\0\0\x01\x08"
"""What follows the magic number on x86-64: two zeros, bytes of the shortest instruction, bytes of a pointer."""
FUNCTIONS = 4 << 20
"""The most functions that are read: the largest programs have 300,000."""
NAME = 1024
"""Bytes of a name: a longer one is cut."""
NAMES = 128 << 20
"""Bytes of all names, which are kept in memory."""
_HEAD = struct.Struct("<I4s")
_RELA = struct.Struct("<QQq")


@dataclass(frozen=True, slots=True, kw_only=True)
class GoFunctions:
    """The functions of a Go program."""

    ranges: tuple[tuple[int, int, int], ...] = ()
    """Virtual addresses of start and end, and the offset of the name in `strings`; ascending."""
    strings: bytes = b""
    """The names, each with a zero byte at its end."""
    problem: str = ""
    """Why the table could not be read to its end; empty if it was, or if there is none."""


def read_functions(data: Buffer, layout: Layout) -> GoFunctions:
    """Return the functions of a Go program by its table; none if it has no such table.

    A malformed table is a `problem` of the result, and never an error.
    """
    problem = ""
    for offset in _places(data, layout):
        try:
            return _read(data, layout, offset)
        except (struct.error, ValueError) as error:
            problem = f"{SECTION} cannot be read: {error}"
    return GoFunctions(problem=problem)


def _places(data: Buffer, layout: Layout) -> Iterator[int]:
    """Yield the offsets in the file at which the table may begin."""
    named = [s for s in layout.sections if s.in_file and s.name.endswith(SECTION)]
    if named:
        yield from (s.offset for s in named)
        return
    traces = (".go.", ".note.go", ".gosymtab", ".data.rel.ro")
    if layout.sections and not any(s.name.startswith(traces) for s in layout.sections):
        return  # no Go program: linkers leave at least one of these
    for part in layout.segments:
        if part.type == PT_LOAD and not part.flags & PF_X:
            yield from _in_segment(data, part)


def _in_segment(data: Buffer, part: Segment) -> Iterator[int]:
    end = part.offset + part.file_size
    for magic in (MAGIC_20, MAGIC_18, MAGIC_16, MAGIC_2):
        at = find(data, _HEAD.pack(magic, SHAPE), part.offset, end)
        while at >= 0:
            if at % 8 == 0:
                yield at
            at = find(data, _HEAD.pack(magic, SHAPE), at + 8, end)


def _read(data: Buffer, layout: Layout, offset: int) -> GoFunctions:
    magic, shape = _HEAD.unpack(data[offset : offset + _HEAD.size])
    if magic not in MAGICS or shape != SHAPE:
        raise ValueError(f"its header {data[offset : offset + 8].hex()} is not known")
    base = offset + _HEAD.size
    (count,) = struct.unpack("<Q", data[base : base + 8])
    if not 0 < count <= FUNCTIONS:
        raise ValueError(f"it has {count} functions")
    if magic in (MAGIC_18, MAGIC_20):
        start, names, table = (struct.unpack("<Q", data[base + at : base + at + 8])[0] for at in (16, 24, 56))
        start = _text_start(data, layout, offset, start)
        return _functions(data, layout, (offset + table, "<II", count), ("<Ii", start), offset + names)
    if magic == MAGIC_16:
        names, table = (struct.unpack("<Q", data[base + at : base + at + 8])[0] for at in (16, 48))
        return _functions(data, layout, (offset + table, "<QQ", count), ("<Qi", 0), offset + names)
    return _functions(data, layout, (base + 8, "<QQ", count), ("<Qi", 0), offset, table_at=offset)


def _text_start(data: Buffer, layout: Layout, offset: int, given: int) -> int:
    """Return the address that the functions' addresses are relative to.

    In a position-independent program the header's word is written by the loader, and may be zero in the file. From Go
    1.26 on it is always zero, and the runtime takes the start of its own code.
    """
    if given:
        return given
    place = layout.address_of(offset)
    for section in layout.sections:
        if section.type == SHT_RELA and section.in_file and place is not None:
            found = _addend(data, section, place + 24)
            if found:
                return found
    text = layout.section(".text")
    if text is None:
        raise ValueError("the start of the code is not known")
    return text.address


def _addend(data: Buffer, section: Section, place: int) -> int:
    """Return the addend of the relocation of a place in a section of relocations; 0 if there is none."""
    wanted, end = struct.pack("<Q", place % (1 << 64)), section.offset + section.size // _RELA.size * _RELA.size
    at = data.find(wanted, section.offset, end)
    while at >= 0:
        if (at - section.offset) % _RELA.size == 0 and at + _RELA.size <= min(end, len(data)):
            return int(_RELA.unpack_from(data, at)[2])
        at = data.find(wanted, at + 1, end)
    return 0


def _functions(
    data: Buffer,
    layout: Layout,
    table: tuple[int, str, int],
    form: tuple[str, int],
    names: int,
    *,
    table_at: int | None = None,
) -> GoFunctions:
    """Return the functions.

    Args:
        data: the file.
        layout: its layout.
        table: where the table of functions is, the form of its entries, and their number.
        form: the form of a function's own record, and the address that its start is relative to.
        names: where the names are.
        table_at: what the places of records are relative to; None: the table of functions.
    """
    at, entry, count = table
    size = struct.calcsize(entry)
    raw = data[at : at + size * count + size // 2]
    if at < 0 or len(raw) < size * count + size // 2:
        raise ValueError("the file ends within it")
    words = array(entry[-1], raw)
    starts, places = words[::2], words[1::2]
    if any(map(gt, starts, starts[1:])):
        raise ValueError("its addresses do not ascend")
    code = [(p.address, p.address + p.file_size) for p in layout.segments if p.type == PT_LOAD and p.flags & PF_X]
    record, base = struct.Struct(form[0]), form[1]
    where = at if table_at is None else table_at
    out: list[tuple[int, int, int]] = []
    strings = bytearray()
    for start, end, place in zip(starts, starts[1:], places, strict=False):
        low, high = base + start, base + end
        if low == high or not any(a <= low and high <= b for a, b in code):
            continue
        if where + place > len(data):
            raise ValueError("a function's record is behind the file's end")
        offset = names + record.unpack_from(data, where + place)[1]
        if 0 <= offset < len(data):
            name_end = data.find(b"\0", offset, offset + NAME)
            name = bytes(data[offset : name_end if name_end >= 0 else offset + NAME])
        else:
            name = b""
        if len(strings) + len(name) > NAMES:
            raise ValueError("its names are too long")
        out.append((low, high, len(strings)))
        strings += name + b"\0"
    if not out:
        raise ValueError("none of its functions is in the code")
    return GoFunctions(ranges=tuple(out), strings=bytes(strings))
