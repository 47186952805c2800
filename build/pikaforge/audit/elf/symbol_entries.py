"""The table of dynamic symbols, known by its structure: where a linker makes no segment for code alone, it may be run.

Each entry has a name's place, type, binding, visibility, section, value and size (gABI, chapter 4, Symbol Table). A
table counts if the loader uses it, and if each field of each entry has a value that a linker gives it.
"""

from __future__ import annotations

import struct

from pikaforge.audit.elf.dynamic import DynamicSection
from pikaforge.audit.elf.layout import SHT_DYNSYM, Buffer, Layout

DT_STRTAB, DT_SYMTAB, DT_STRSZ = 5, 6, 10
SHN_ABS, SHN_COMMON = 0xFFF1, 0xFFF2
TYPES, BINDINGS = frozenset((*range(7), 10)), frozenset((0, 1, 2, 10))
"""STT_NOTYPE to STT_TLS and STT_GNU_IFUNC; STB_LOCAL, STB_GLOBAL, STB_WEAK and STB_GNU_UNIQUE."""
KINDS = frozenset(binding << 4 | kind for binding in BINDINGS for kind in TYPES)
VISIBILITIES = 4
SYMBOLS = 1 << 20
"""The most entries that are looked at."""
_SYMBOL = struct.Struct("<IBBHQQ")


def symbol_entries(data: Buffer, layout: Layout, where: str) -> tuple[int, int]:
    """Return the range of addresses with the dynamic symbols; an empty one if an entry is none, or there is no table.

    Raises:
        AuditError: the dynamic section cannot be read.
    """
    tags = DynamicSection(data, layout, where)
    start, names = tags.number(DT_SYMTAB), tags.number(DT_STRSZ)
    table = next((s for s in layout.sections if s.type == SHT_DYNSYM and s.in_file and s.address == start), None)
    if not start or table is None or table.size > SYMBOLS * _SYMBOL.size or layout.offset_of(start) != table.offset:
        return 0, 0
    if not names or layout.offset_of(tags.number(DT_STRTAB) + names - 1) is None:
        return 0, 0
    high = max(s.address + s.memory_size for s in layout.segments)
    count = len(layout.sections)
    raw = data[table.offset : table.offset + table.size // _SYMBOL.size * _SYMBOL.size]
    for name, kind, other, section, value, size in _SYMBOL.iter_unpack(raw):
        placed = section < count or section in (SHN_ABS, SHN_COMMON)
        if name >= names or kind not in KINDS or other >= VISIBILITIES or not placed or value > high or size > high:
            return 0, 0
    return start, start + len(raw)
