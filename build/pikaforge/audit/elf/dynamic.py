"""The dynamic section of an ELF file, which the loader reads.

Format: System V gABI chapter 5; symbol versions: LSB Core 5.0, chapter 10.7.
"""

from __future__ import annotations

import struct
from functools import cached_property

from pikaforge.audit.elf.layout import NAME_LIMIT, PT_DYNAMIC, Buffer, Layout, piece, text
from pikaforge.errors import AuditError

DT_NEEDED, DT_STRTAB, DT_STRSZ, DT_SONAME, DT_RPATH, DT_TEXTREL, DT_BIND_NOW, DT_RUNPATH, DT_FLAGS = (
    1, 5, 10, 14, 15, 22, 24, 29, 30)  # fmt: skip
ENTRIES_LIMIT, VERSIONS_LIMIT = 1 << 14, 20_000
"""Entries of the section, and of the lists of versions, which may lead to one another: glibc's libc defines 50."""
DT_FLAGS_1, DT_VERDEF, DT_VERNEED = 0x6FFFFFFB, 0x6FFFFFFC, 0x6FFFFFFE


class DynamicSection:
    """The dynamic section of a file, by tag; empty if the file has none."""

    def __init__(self, data: Buffer, layout: Layout, where: str) -> None:
        """Read the section.

        Args:
            data: the whole file.
            layout: its layout.
            where: its name, for errors.

        Raises:
            AuditError: the section lies outside of the file.
        """
        self._data, self._layout, self._where = data, layout, where
        self._steps = 0
        self.entries: dict[int, list[int]] = {}
        """The values of each tag."""
        place = layout.segment(PT_DYNAMIC)
        if place is None:
            return
        raw = piece(data, place.offset, place.file_size, "the dynamic section", where)
        for number, (tag, value) in enumerate(struct.iter_unpack("<QQ", raw[: len(raw) // 16 * 16])):
            if tag == 0:
                break
            if number >= ENTRIES_LIMIT:
                raise AuditError("the ELF file is corrupt: its dynamic section has no end", where=where)
            self.entries.setdefault(tag, []).append(value)

    @cached_property
    def _strings(self) -> bytes:
        table = self._layout.offset_of(self.number(DT_STRTAB))
        if table is None:
            return b""
        return piece(self._data, table, self.number(DT_STRSZ), "the dynamic string table", self._where)

    def number(self, tag: int) -> int:
        """Return the first value of a tag; 0 if there is none."""
        return self.entries.get(tag, [0])[0]

    def string(self, offset: int) -> str:
        """Return the string at an offset of the section's string table."""
        return text(self._strings, offset, NAME_LIMIT)

    def strings(self, tag: int) -> tuple[str, ...]:
        """Return the strings of all entries of a tag."""
        return tuple(text(self._strings, value, NAME_LIMIT) for value in self.entries.get(tag, ()))

    def _chain(self, tag: int) -> int | None:
        return self._layout.offset_of(self.number(tag)) if tag in self.entries else None

    def _at(self, form: str, offset: int, what: str) -> tuple[int, ...]:
        self._steps += 1
        if self._steps > VERSIONS_LIMIT:
            raise AuditError(f"the ELF file is corrupt: {what} have no end", where=self._where)
        return struct.unpack(form, piece(self._data, offset, struct.calcsize(form), what, self._where))

    def version_needs(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return the symbol versions that the file needs, by library (Elf64_Verneed with its Elf64_Vernaux entries)."""
        found: dict[str, dict[str, None]] = {}
        # Offsets to the next entry are not negative, so that the walk ends.
        at = self._chain(DT_VERNEED)
        while at is not None:
            _, count, library, first, following = self._at("<HHIII", at, "the version needs")
            names = found.setdefault(text(self._strings, library, NAME_LIMIT), {})
            entry = at + first
            for _ in range(count):
                _, _, _, name, onward = self._at("<IHHII", entry, "the version needs")
                names[text(self._strings, name, NAME_LIMIT)] = None
                if not onward:
                    break
                entry += onward
            at = at + following if following else None
        return tuple((library, tuple(names)) for library, names in found.items())

    def version_definitions(self) -> tuple[str, ...]:
        """Return the symbol versions that the file defines (Elf64_Verdef); the first one is the file's own name."""
        found: dict[str, None] = {}
        at = self._chain(DT_VERDEF)
        while at is not None:
            _, _, _, _, _, first, following = self._at("<HHHHIII", at, "the version definitions")
            name, _ = self._at("<II", at + first, "the version definitions")
            found[text(self._strings, name, NAME_LIMIT)] = None
            at = at + following if following else None
        return tuple(found)
