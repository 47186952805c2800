"""Addresses of a library's own code and data that others can use.

They are what the loader calls, what the library exports, and the pointers that the loader writes into its data. The
dynamic section has them, as the loader needs them; section headers are not read. Format: System V gABI chapter 5,
x86-64 psABI 4.4; DT_RELR: the gABI's proposal of 2018, which binutils 2.38 and glibc 2.36 follow.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import takewhile

from pikaforge.audit.elf.dynamic import DynamicSection
from pikaforge.audit.elf.layout import PT_INTERP, Buffer, Layout, piece
from pikaforge.errors import AuditError

DT_PLTRELSZ, DT_HASH, DT_SYMTAB, DT_RELA, DT_RELASZ, DT_INIT, DT_FINI, DT_JMPREL = 2, 4, 6, 7, 8, 12, 13, 23
DT_SONAME, DT_INIT_ARRAY, DT_FINI_ARRAY, DT_INIT_ARRAYSZ, DT_FINI_ARRAYSZ = 14, 25, 26, 27, 28
DT_PREINIT_ARRAY, DT_PREINIT_ARRAYSZ, DT_RELRSZ, DT_RELR, DT_GNU_HASH = 32, 33, 35, 36, 0x6FFFFEF5
R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT, R_X86_64_RELATIVE, R_X86_64_IRELATIVE = 1, 6, 7, 8, 37
STT_OBJECT, STT_TLS, STT_GNU_IFUNC = 1, 6, 10
SHN_UNDEF, SHN_ABS = 0, 0xFFF1
SYMBOLS = 1 << 20
"""A limit that no library's number of symbols reaches."""
_SYMBOL = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")
_ARRAYS = (
    (DT_INIT_ARRAY, DT_INIT_ARRAYSZ),
    (DT_FINI_ARRAY, DT_FINI_ARRAYSZ),
    (DT_PREINIT_ARRAY, DT_PREINIT_ARRAYSZ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodePointers:
    """Addresses of a library's code and data that others can use without running its code first."""

    given: frozenset[int]
    """Code and data that others may use from the start: the entry, exports, and functions that the loader calls."""
    resolvers: frozenset[int]
    """Functions that choose an implementation at start-up (ifunc). They are in `given`, too."""
    stored: tuple[tuple[int, int], ...]
    """Pointers in the data: the place, and the address that the loader writes there."""
    places: frozenset[int]
    """All places in the data that the loader writes to, also those of addresses in other libraries."""
    arrays: tuple[tuple[int, int], ...]
    """Ranges of data that hold functions which the loader calls."""
    objects: frozenset[int] = frozenset()
    """Those of `given` that are data by all their symbols, which is a claim."""


def read_pointers(data: Buffer, layout: Layout, where: str) -> CodePointers:
    """Return the pointers of a library, by its dynamic section.

    Raises:
        AuditError: it is truncated, or cannot be followed.
    """
    return _Reader(data, layout, where).read()


def relative_relocations(data: Buffer, layout: Layout, where: str) -> tuple[int, int]:
    """Return the addresses of the first byte and of the one behind a library's relocations of its own pointers.

    Linkers sort them to the start of the table (DT_RELACOUNT has their number). Each is a place, the number 8, and an
    address; the range ends before the first one that has another form, or addresses of more than 32 bits. So no more
    than four bytes in a row in it are of any value, and four zeros follow.

    Raises:
        AuditError: the dynamic section is truncated, or cannot be followed.
    """
    tags = {tag: values[0] for tag, values in DynamicSection(data, layout, where).entries.items()}
    address = tags.get(DT_RELA, 0)
    offset = layout.offset_of(address)
    if offset is None or DT_RELA not in tags:
        return 0, 0
    raw = data[offset : offset + min(tags.get(DT_RELASZ, 0), len(data))]
    words = array("Q", raw[: len(raw) // _RELA.size * _RELA.size])
    entries = zip(words[::3], words[1::3], words[2::3], strict=True)
    high = 1 << 32
    count = sum(1 for _ in takewhile(lambda e: e[1] == R_X86_64_RELATIVE and e[0] < high and e[2] < high, entries))
    return address, address + count * _RELA.size


def import_places(data: Buffer, layout: Layout, where: str, names: Set[str]) -> set[int]:
    """Return the places in a library's data into which the loader writes the addresses of some imported symbols.

    Raises:
        AuditError: its dynamic section is truncated, or cannot be followed.
    """
    return _Reader(data, layout, where).places_of(names)


class _Reader:
    def __init__(self, data: Buffer, layout: Layout, where: str) -> None:
        self._data, self._layout, self._where = data, layout, where
        self._dynamic = DynamicSection(data, layout, where)
        self._tags = {tag: values[0] for tag, values in self._dynamic.entries.items()}

    def read(self) -> CodePointers:
        # A library without an interpreter is not started at its entry: older linkers put the start of .text there. A
        # program has no interpreter if it is linked statically, and then it has no name that others load it by.
        started = self._layout.segment(PT_INTERP) is not None or DT_SONAME not in self._tags
        given = {self._layout.entry} if started else set()
        given |= {self._tags[tag] for tag in (DT_INIT, DT_FINI) if self._tags.get(tag)}
        resolvers: set[int] = set()
        objects: set[int] = set()
        for kind, section, value in self._symbols(self._exported()):
            if section not in (SHN_UNDEF, SHN_ABS) and kind != STT_TLS:
                (objects if kind == STT_OBJECT and value not in given else given).add(value)
                if kind == STT_GNU_IFUNC:
                    resolvers.add(value)
        stored: list[tuple[int, int]] = []
        places = set(self._packed())
        for place, kind, symbol, addend in self._relocations():
            places.add(place)
            if kind == R_X86_64_IRELATIVE:
                resolvers.add(addend)
                given.add(addend)
            elif kind == R_X86_64_RELATIVE:
                stored.append((place, addend))
            elif kind in (R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT):
                _, section, value = next(iter(self._symbols([symbol])))
                if section not in (SHN_UNDEF, SHN_ABS):
                    stored.append((place, value + (addend if kind == R_X86_64_64 else 0)))
        stored += [(place, self._word(place)) for place in self._packed()]
        arrays = tuple(
            (self._tags[at], self._tags[at] + self._tags.get(size, 0)) for at, size in _ARRAYS if at in self._tags
        )
        return CodePointers(
            given=frozenset(given | objects),
            objects=frozenset(objects - given),
            resolvers=frozenset(resolvers),
            stored=tuple(stored),
            places=frozenset(places),
            arrays=arrays,
        )

    def places_of(self, names: Set[str]) -> set[int]:
        """See `import_places`."""
        found = set()
        for place, kind, symbol, _ in self._relocations():
            if symbol and kind in (R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT):
                entry = self._tags.get(DT_SYMTAB, 0) + symbol * _SYMBOL.size
                name, _, _, section, _, _ = _SYMBOL.unpack(self._at(entry, _SYMBOL.size, "the dynamic symbol table"))
                if section == SHN_UNDEF and self._dynamic.string(name) in names:
                    found.add(place)
        return found

    def _at(self, address: int, size: int, what: str) -> bytes:
        offset = self._layout.offset_of(address)
        if offset is None:
            raise AuditError(f"the ELF file is corrupt: {what} lies outside of its segments", where=self._where)
        return piece(self._data, offset, size, what, self._where)

    def _word(self, address: int) -> int:
        return int.from_bytes(self._at(address, 8, "a relocated word"), "little")

    def _symbols(self, numbers: Iterator[int] | list[int]) -> Iterator[tuple[int, int, int]]:
        """Yield type, section and value of some symbols."""
        table = self._tags.get(DT_SYMTAB)
        for number in numbers:
            if table is None or number >= SYMBOLS:
                raise AuditError("the ELF file is corrupt: it has no such symbol", where=self._where)
            raw = self._at(table + number * _SYMBOL.size, _SYMBOL.size, "the dynamic symbol table")
            _, info, _, section, value, _ = _SYMBOL.unpack(raw)
            yield info & 0xF, section, value

    def _exported(self) -> Iterator[int]:
        """Yield the numbers of the symbols that others can look up: those in the hash table."""
        if DT_GNU_HASH in self._tags:
            yield from self._gnu_hash(self._tags[DT_GNU_HASH])
        elif DT_HASH in self._tags:
            _, count = struct.unpack("<II", self._at(self._tags[DT_HASH], 8, "the hash table"))
            yield from range(1, min(count, SYMBOLS))

    def _gnu_hash(self, table: int) -> Iterator[int]:
        buckets, first, bloom, _ = struct.unpack("<IIII", self._at(table, 16, "the hash table"))
        if buckets > SYMBOLS or bloom > SYMBOLS:
            raise AuditError("the ELF file is corrupt: its hash table is too large", where=self._where)
        start = table + 16 + 8 * bloom
        heads = struct.unpack(f"<{buckets}I", self._at(start, 4 * buckets, "the hash table"))
        last = max(heads, default=0)
        if last < first:
            return
        # The chain of the last bucket ends the table.
        while not int.from_bytes(self._at(start + 4 * (buckets + last - first), 4, "the hash table"), "little") & 1:
            last += 1
            if last >= SYMBOLS:
                raise AuditError("the ELF file is corrupt: its hash table has no end", where=self._where)
        yield from range(first, last + 1)

    def _relocations(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield place, type, symbol and addend of all relocations."""
        for table, size in ((DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)):
            if table in self._tags:
                count = self._tags.get(size, 0) // _RELA.size
                raw = self._at(self._tags[table], count * _RELA.size, "the relocations") if count else b""
                for place, info, addend in _RELA.iter_unpack(raw):
                    yield place, info & 0xFFFFFFFF, info >> 32, addend

    def _packed(self) -> Iterator[int]:
        """Yield the places of the words that DT_RELR relocates.

        An even entry is a place; an odd one is a bitmap of the 63 words that follow the last place.
        """
        if DT_RELR not in self._tags:
            return
        raw = self._at(self._tags[DT_RELR], self._tags.get(DT_RELRSZ, 0) // 8 * 8, "the packed relocations")
        at = 0
        for (entry,) in struct.iter_unpack("<Q", raw):
            if entry & 1:
                yield from (at + 8 * bit for bit in range(63) if entry >> (bit + 1) & 1)
                at += 63 * 8
            else:
                yield entry
                at = entry + 8
