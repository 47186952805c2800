"""The table of a file's symbols, with their names, as it is in the file."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pikaforge.audit.elf.layout import Buffer, Layout, piece

SYMBOL = struct.Struct("<IBBHQQ")
"""Offset of the name, type and binding, visibility, section, address, size (Elf64_Sym)."""


def read_symbol_table(data: Buffer, layout: Layout, kinds: Sequence[int], where: str) -> tuple[bytes, bytes]:
    """Return the symbols of a file, to be read by `SYMBOL`, and the table of their names; both empty if it has none.

    Args:
        data: the file.
        layout: its layout.
        kinds: types of sections: the first section of the first type that there is counts.
        where: what to call the file in errors.

    Raises:
        AuditError: a table is cut off.
    """
    sections = layout.sections
    tables = (s for kind in kinds for s in sections if s.type == kind and s.in_file)
    table = next(tables, None)
    if table is None or table.link >= len(sections) or not sections[table.link].in_file:
        return b"", b""
    held = sections[table.link]
    symbols = piece(data, table.offset, table.size // SYMBOL.size * SYMBOL.size, "the symbol table", where)
    return symbols, piece(data, held.offset, held.size, "the string table", where)
