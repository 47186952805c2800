"""Object files as they would be linked alone, so that their code can be read as that of any other file.

An object file has no addresses: its sections begin at 0, and where instructions name functions and data, relocations
stand for the distances. Here each section gets its offset in the file as its address, and symbols and relocations are
applied as a linker does it (x86-64 psABI, 4.4). So an address in a finding is an offset in the object file. What is
defined elsewhere is taken to be at `ELSEWHERE`, which is in no section.

The result has the bytes of the file at their offsets, and one program header behind them.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from pikaforge.audit.elf.layout import (
    EM_X86_64,
    ET_REL,
    MAGIC,
    PF_W,
    PT_LOAD,
    SEGMENT_64,
    SHF_ALLOC,
    SHF_COMPRESSED,
    SHF_EXECINSTR,
    SHT_NOBITS,
    SHT_RELA,
    SHT_SYMTAB,
    Buffer,
    Section,
    read_layout,
)
from pikaforge.errors import AuditError

ELSEWHERE = 16
"""The address of what an object file does not define: in the file's header."""
UNKNOWN = -1 << 63
"""Instead of the address of what is not defined."""
HEADER = 64
"""Bytes of the file's header."""
NEAR = 8
"""Bytes that an instruction may have behind the distance in it. A larger addend is a place within what is named."""
SYMBOL_TABLES = 4
"""Symbol tables of a file. It has one (gABI, chapter 4)."""
SIZE_LIMIT = 256 << 20
"""Bytes of an object file, which is copied. The largest of Linux has 50 MB."""
SHT_REL, SHT_SYMTAB_SHNDX = 9, 18
SHN_UNDEF, SHN_LORESERVE, SHN_ABS, SHN_XINDEX = 0, 0xFF00, 0xFFF1, 0xFFFF
ABSOLUTE = {1: 8, 10: 4, 11: 4, 12: 2, 14: 1}
"""Relocations that write an address, with the bytes that they write: R_X86_64_64, 32, 32S, 16 and 8."""
RELATIVE = {2: 4, 4: 4, 13: 2, 15: 1, 24: 8}
"""Those that write a distance: R_X86_64_PC32, PLT32, PC16, PC8 and PC64."""
SIZES = {32: 4, 33: 8}
"""Those that write the size of a symbol: R_X86_64_SIZE32 and SIZE64."""
INDIRECT = frozenset({9, 19, 20, 22, 26, 34, 41, 42})
"""Those that write the distance to an entry of a table which the linker makes: GOT and TLS."""
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SYMBOL, _RELA, _REL = struct.Struct("<IBBHQQ"), struct.Struct("<QQq"), struct.Struct("<QQ")
_WORDS = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFFFFFF, 8: 0xFFFFFFFFFFFFFFFF}


def is_object(start: bytes) -> bool:
    """Return whether a file is an object file for x86-64, by its first 20 bytes."""
    return start[:6] == MAGIC + b"\2\1" and start[16:20] == struct.pack("<HH", ET_REL, EM_X86_64)


_last: dict[tuple[int, ...], bytes] = {}


def relocated(path: Path, data: Buffer) -> bytes:
    """Return an object file as it would be linked alone. The last one is kept, as a file is read in many chunks.

    Raises:
        AuditError: it is truncated, corrupt, or larger than `SIZE_LIMIT`.
    """
    status = path.stat()
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    made = _last.get(key)
    if made is None:
        made = _Object(data, str(path)).linked()
        _last.clear()
        _last[key] = made
    return made


class _Object:
    """An object file while it is linked."""

    def __init__(self, data: Buffer, where: str) -> None:
        if len(data) > SIZE_LIMIT:
            raise AuditError(f"the object file has {len(data)} bytes; at most {SIZE_LIMIT} are read", where=where)
        self._layout = read_layout(data, where)
        self._sections = self._layout.sections
        self._where = where
        self._image = bytearray(data)
        self._table, self._row = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<H", data, 58)[0]
        self._addresses: list[int] = []
        self._symbols: dict[int, tuple[array[int], array[int]]] = {}

    def linked(self) -> bytes:
        """Return the result."""
        self._check()
        end = self._place()
        for number in [n for n, s in enumerate(self._sections) if s.type == SHT_SYMTAB][:SYMBOL_TABLES]:
            self._define(number)
        self._relocate()
        image = self._image
        image += bytes(-len(image) % 8)
        struct.pack_into("<Q", image, 32, len(image))
        struct.pack_into("<HH", image, 54, SEGMENT_64, 1)
        size = len(image) + SEGMENT_64
        image += _SEGMENT.pack(PT_LOAD, PF_W, 0, 0, 0, size, max(size, end), 8)
        return bytes(image)

    def _check(self) -> None:
        """Raise AuditError if one part of the file is in another, so that a change of one would hide the other."""
        if any(s.flags & SHF_COMPRESSED and s.flags & SHF_EXECINSTR for s in self._sections):
            raise AuditError("a section with code is compressed, as no assembler does it", where=self._where)
        parts = [(0, HEADER), (self._table, self._table + self._row * len(self._sections))]
        parts += [(s.offset, s.offset + s.size) for s in self._sections if s.in_file and s.size]
        parts.sort()
        if any(end > start for (_, end), (start, _) in pairwise(parts)):
            raise AuditError("the object file is corrupt: its sections overlap", where=self._where)

    def _place(self) -> int:
        """Give an address to each section that is loaded, and return the end of all: .bss is behind the file."""
        end = -(-(len(self._image) + 64) // 64) * 64
        for number, section in enumerate(self._sections):
            address = 0
            if section.flags & (SHF_ALLOC | SHF_EXECINSTR):
                address = section.offset
                if section.type == SHT_NOBITS:
                    address, end = end, end + -(-section.size // 64) * 64
            if end > 1 << 48:
                raise AuditError("the object file is corrupt: its sections are too large", where=self._where)
            self._addresses.append(address)
            struct.pack_into("<Q", self._image, self._table + number * self._row + 16, address)
        return end

    def _define(self, number: int) -> None:
        """Give an address to each symbol of a table; those of others have none, and keep their section."""
        table = self._sections[number]
        raw = bytes(self._image[table.offset : table.offset + table.size // _SYMBOL.size * _SYMBOL.size])
        further = self._further(number)
        values, sizes = array("q"), array("Q")
        rows = []
        for index, (name, info, other, place, value, size) in enumerate(_SYMBOL.iter_unpack(raw)):
            if place == SHN_XINDEX:
                place = further[index] if index < len(further) else SHN_UNDEF  # noqa: PLW2901
            elif place >= SHN_LORESERVE:
                values.append(_signed(value) if place == SHN_ABS else UNKNOWN)
                sizes.append(size)
                rows.append(_SYMBOL.pack(name, info, other, place, value, size))
                continue
            known = SHN_UNDEF < place < len(self._sections) and self._holds(self._sections[place], value)
            at = self._addresses[place] + value if known else 0
            values.append(at if known else UNKNOWN)
            sizes.append(size)
            rows.append(_SYMBOL.pack(name, info, other, int(known), at if known else 0, size))
        self._symbols[number] = values, sizes
        self._image[table.offset : table.offset + len(raw)] = b"".join(rows)

    def _holds(self, section: Section, place: int) -> bool:
        """Return whether a place is in a section that is loaded, or at its end."""
        loaded = section.flags & (SHF_ALLOC | SHF_EXECINSTR) and section.type
        return bool(loaded) and place <= section.size

    def _further(self, number: int) -> Sequence[int]:
        """Return the sections of a table's symbols for which the table itself has no room."""
        for section in self._sections:
            if section.type == SHT_SYMTAB_SHNDX and section.link == number and section.in_file:
                return array("I", bytes(self._image[section.offset : section.offset + section.size // 4 * 4]))
        return ()

    def _relocate(self) -> None:
        """Apply the relocations of all sections that are loaded."""
        spent = 0
        for section in self._sections:
            if section.type not in (SHT_RELA, SHT_REL) or not 0 < section.info < len(self._sections):
                continue
            target = self._sections[section.info]
            if not target.in_file or not target.flags & (SHF_ALLOC | SHF_EXECINSTR):
                continue
            spent += section.size
            if spent > len(self._image):
                raise AuditError("the object file is corrupt: its relocations overlap", where=self._where)
            raw = bytes(self._image[section.offset : section.offset + section.size])
            values, sizes = self._symbols.get(section.link, (array("q"), array("Q")))
            if section.type == SHT_RELA:
                self._apply(target, _RELA.iter_unpack(raw[: len(raw) // _RELA.size * _RELA.size]), values, sizes)
            else:
                rows = _REL.iter_unpack(raw[: len(raw) // _REL.size * _REL.size])
                self._apply(target, self._with_addends(target, rows), values, sizes)

    def _with_addends(self, target: Section, rows: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int, int]]:
        """Yield relocations with the addends that are in the bytes which they change."""
        for place, info in rows:
            kind = info & 0xFFFFFFFF
            width = ABSOLUTE.get(kind) or RELATIVE.get(kind) or SIZES.get(kind) or 4
            at = target.offset + place
            yield place, info, int.from_bytes(self._image[at : at + width], "little", signed=True)

    def _apply(
        self, target: Section, rows: Iterable[tuple[int, int, int]], values: Sequence[int], sizes: Sequence[int]
    ) -> None:
        image, begin, length = self._image, target.offset, target.size
        for place, info, addend in rows:
            kind, symbol = info & 0xFFFFFFFF, info >> 32
            value = values[symbol] if symbol < len(values) else UNKNOWN
            if width := RELATIVE.get(kind, 0):
                if value == UNKNOWN:
                    value, addend = ELSEWHERE, addend if -NEAR <= addend < 0 else -4  # noqa: PLW2901
                result = value + addend - begin - place
            elif width := ABSOLUTE.get(kind, 0):
                result = (value if value != UNKNOWN else 0) + addend  # a weak symbol without a definition is 0
            elif kind in INDIRECT:
                width, result = 4, ELSEWHERE + (addend if -NEAR <= addend < 0 else -4) - begin - place
            elif width := SIZES.get(kind, 0):
                result = (sizes[symbol] if symbol < len(sizes) else 0) + addend
            else:
                continue
            if place + width <= length:
                at = begin + place
                image[at : at + width] = (result & _WORDS[width]).to_bytes(width, "little")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
