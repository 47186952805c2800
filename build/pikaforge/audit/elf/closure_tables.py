"""Tables of data before functions, by their structure: GHC puts one before each piece of code that a closure runs.

The word of a closure is the address of the code. Before the code is what the garbage collector needs: a layout of 8
bytes, a kind of 4 and a distance of 4 (GHC's rts/include/rts/storage/InfoTables.h, with TABLES_NEXT_TO_CODE). Functions
have their arity before that, and with a bitmap 16 bytes more; constructors have the place of their name. Code before a
table ends with a jump.

Only a file whose data is full of pointers to such places is taken for one that has them. It is never believed that the
bytes of a table are not run: `table_pieces` looks at them.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice

from pikaforge.audit.elf.executable import Region
from pikaforge.audit.elf.layout import ET_DYN, PF_W, PF_X, PT_LOAD, SHT_RELA, Buffer, Layout

CONSTRUCTORS, FUNCTIONS, KINDS = range(1, 8), range(8, 15), frozenset((*range(1, 23), 30, 31))
"""Kinds of closures that have code (rts/include/rts/storage/ClosureTypes.h); 30 and 31 are frames of the stack."""
FRAMES = frozenset((30, 31))
SMALL = 0xFFFF
"""The largest number of fields of a closure. The bitmap of a frame may have any value."""
ARITY, SHAPES = 64, 64
"""The largest arity and shape of a function (rts/include/rts/storage/FunTypes.h). Shapes 0 and 1 have a bitmap."""
STEP = 1 << 20
"""Bytes that are read at once."""
POINTERS, WORDS = 4096, 1 << 20
"""Pointers that are looked at, and words of data among which they are looked for."""
ENOUGH, SHARE = 100, 0.8
"""Pointers to tables that a file must have, and their share of all pointers to its code."""
WORD = 8
_TABLE = struct.Struct("<QIi")
_RELA = struct.Struct("<QQq")
R_X86_64_RELATIVE = 8
_END_BYTES = 24
_NO_BASE = b"".join(b"\\x%02x" % number for number in range(5, 256, 8))
"""The byte after an opcode that stands for an address with an index and without a base: of a switch's table."""
_END = re.compile(
    rb"(?s)(?:\xff[\x20-\x23\x26\x27\xe0-\xe7]|\xff[\x60-\x63\x65-\x67].|\xff[\xa0-\xa3\xa5-\xa7].{4}|\xff\x64\x24."
    rb"|\xff\xa4\x24.{4}|\xff\x24[" + _NO_BASE + rb"].{4}|\xe9.{4}|\xeb.|\xc3)"
    rb"(?:(?:\x66?\x90|\x0f\x1f\0|\x0f\x1f\x40\0|\x66?\x0f\x1f\x44\0\0|\x0f\x1f\x80\0{4})*|\0*)\Z"
)
"""Ends of code: a jump, with padding to a multiple of 8."""


def read_tables(data: Buffer, layout: Layout, regions: Sequence[Region]) -> tuple[array[int], array[int]]:
    """Return the addresses of tables before functions, and of the bytes behind them; none for another compiler's."""
    code = [r for r in regions if not r.claim]
    starts, ends = array("Q"), array("Q")
    if not code or not _has_tables(data, layout, code):
        return starts, ends
    for region in code:
        for start, end in _in_region(data, region):
            if ends and start < ends[-1]:  # the arity or layout of this one looked like the kind of another one
                starts.pop()
                ends.pop()
            if not ends or start >= ends[-1]:
                starts.append(start)
                ends.append(end)
    return starts, ends


def _has_tables(data: Buffer, layout: Layout, code: Sequence[Region]) -> bool:
    seen = held = 0
    for address in islice(_pointers(data, layout, code), POINTERS):
        seen += 1
        region = next(r for r in code if r.address <= address < r.address + r.size)
        held += _size(data, region, address - region.address) > 0
    return held >= ENOUGH and held >= seen * SHARE


def _pointers(data: Buffer, layout: Layout, code: Sequence[Region]) -> Iterator[int]:
    """Yield addresses of code that data has, each once."""
    low, high = code[0].address, max(r.address + r.size for r in code)
    seen: set[int] = set()
    for value in islice(_words(data, layout), WORDS):
        if low <= value < high and value not in seen and any(r.address <= value < r.address + r.size for r in code):
            seen.add(value)
            yield value


def _words(data: Buffer, layout: Layout) -> Iterator[int]:
    """Yield what may be pointers: words of data, or what the loader writes there."""
    if layout.type == ET_DYN:
        for section in layout.sections:
            if section.type == SHT_RELA and section.in_file:
                size = min(section.size, WORDS * _RELA.size) // _RELA.size * _RELA.size
                rows = _RELA.iter_unpack(data[section.offset : section.offset + size])
                yield from (addend for _, info, addend in rows if info & 0xFFFFFFFF == R_X86_64_RELATIVE)
        return
    for segment in layout.segments:
        if segment.type == PT_LOAD and segment.flags & PF_W and not segment.flags & PF_X:  # closures are written to
            begin = segment.offset + -segment.address % WORD
            end = segment.offset + segment.file_size
            for at in range(begin, end - WORD + 1, STEP):
                part = array("Q")
                part.frombytes(data[at : at + min(STEP, end - at) // WORD * WORD])
                yield from part


def _in_region(data: Buffer, region: Region) -> Iterator[tuple[int, int]]:
    """Yield the tables in a region."""
    first = -region.address % WORD
    for begin in range(first, region.size - 2 * WORD, STEP):
        at = region.offset + begin
        words = array("Q")
        words.frombytes(data[at : at + min(STEP, region.size - begin) // WORD * WORD])
        for number in [n for n, word in enumerate(words) if word & 0xFFFFFFFF in KINDS]:
            place = begin + WORD * number + WORD
            if size := _size(data, region, place):
                yield region.address + place - size, region.address + place


def leads_to_closure(data: Buffer, layout: Layout, end: int, place: int) -> bool:
    """Return whether the distance at the end of a table leads to where closures are: to data that is written to.

    Args:
        data: the file.
        layout: its layout.
        end: the address behind the table.
        place: its offset in the file.
    """
    target = end + _TABLE.unpack_from(data, place - _TABLE.size)[2]
    return target % WORD == 0 and any(
        s.type == PT_LOAD and s.flags & PF_W and not s.flags & PF_X and s.address <= target < s.address + s.memory_size
        for s in layout.segments
    )


def _size(data: Buffer, region: Region, place: int) -> int:
    """Return the bytes of the table that is before a place in a region; 0 if there is none."""
    at = region.offset + place
    if (region.address + place) % WORD or place < _END_BYTES + 40:
        return 0
    layout, kind, _ = _TABLE.unpack_from(data, at - _TABLE.size)
    size = _TABLE.size
    if kind not in KINDS or (kind not in FRAMES and (layout >> 32 > SMALL or layout & 0xFFFFFFFF > SMALL)):
        return 0
    if kind in FUNCTIONS:
        shape, arity = struct.unpack_from("<II", data, at - size - WORD)
        if shape > SHAPES or arity > ARITY:
            return 0
        size += WORD if shape > 1 else 3 * WORD
    elif kind in CONSTRUCTORS:
        size += WORD
    return size if _END.search(data[at - size - _END_BYTES : at - size]) else 0
