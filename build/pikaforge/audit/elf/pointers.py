"""Addresses of a library's own code and data that others can use.

They are what the loader calls, what the library exports, and the pointers that the loader writes into its data. The
dynamic section has them, as the loader needs them; section headers are not read. Format: System V gABI chapter 5,
x86-64 psABI 4.4; DT_RELR: the gABI's proposal of 2018, which binutils 2.38 and glibc 2.36 follow.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, takewhile
from typing import NamedTuple

from pikaforge.audit.elf.dynamic import DynamicSection
from pikaforge.audit.elf.layout import PT_INTERP, PT_LOAD, SHT_RELA, Buffer, Layout, piece, release
from pikaforge.errors import AuditError

DT_PLTRELSZ, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ = 2, 4, 5, 6, 7, 8
DT_INIT, DT_FINI, DT_JMPREL = 12, 13, 23
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


class Stored(NamedTuple):
    """Pointers in data. There may be a million, so they are in arrays."""

    places: array[int]
    values: array[int]
    """The address that the loader writes to each place, modulo 2^64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodePointers:
    """Addresses of a library's code and data that others can use without running its code first."""

    given: frozenset[int]
    """Code and data that others may use from the start: the entry, exports, and functions that the loader calls."""
    resolvers: frozenset[int]
    """Functions that choose an implementation at start-up (ifunc). They are in `given`, too."""
    stored: Stored
    """Pointers in the data."""
    places: array[int]
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
    found = _Reader(data, layout, where).read()
    release(data)
    return found


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
    count, high = _relative(words[1::3]), 1 << 32
    places, values = words[: 3 * count : 3], words[2 : 3 * count : 3]
    if max(places, default=0) >= high or max(values, default=0) >= high:
        pairs = zip(places, values, strict=True)
        count = sum(1 for _ in takewhile(lambda pair: pair[0] < high and pair[1] < high, pairs))
    return address, address + count * _RELA.size


def _relative(kinds: array[int]) -> int:
    """Return how many relocations at the start of a table are relative ones; `kinds` has their types and symbols."""
    raw = kinds.tobytes()
    one = R_X86_64_RELATIVE.to_bytes(8, "little")
    count = (len(raw) - len(raw.lstrip(one))) // len(one)
    if raw.startswith(one * count):  # the usual case: no loop over a million of them
        return count
    return sum(1 for _ in takewhile(R_X86_64_RELATIVE.__eq__, kinds))


def irelative(data: Buffer, layout: Layout, where: str) -> Iterator[int]:
    """Yield the addresses of ifunc resolvers by relocations, which stripped files have, too."""
    for section in layout.sections:
        if section.type == SHT_RELA and section.in_file and layout.bits == 64:
            raw = piece(data, section.offset, section.size // _RELA.size * _RELA.size, "relocations", where)
            kinds = set(array("Q", raw)[1::3])  # a million relocations have few types and symbols
            for _, info, addend in _RELA.iter_unpack(raw if any(map(_is_irelative, kinds)) else b""):
                if _is_irelative(info) and addend >= 0:
                    yield addend


def _is_irelative(info: int) -> bool:
    return info & 0xFFFFFFFF == R_X86_64_IRELATIVE


def import_places(data: Buffer, layout: Layout, where: str, names: Set[str]) -> set[int]:
    """Return the places in a library's data into which the loader writes the addresses of some imported symbols.

    Raises:
        AuditError: its dynamic section is truncated, or cannot be followed.
    """
    return _Reader(data, layout, where).places_of(names)


def _store(stored: Stored, place: int, value: int) -> None:
    stored.places.append(place)
    stored.values.append(value % (1 << 64))


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
        stored, places = Stored(array("Q"), array("Q")), array("Q", self._packed())
        for relative, others in self._relocations():
            places.extend(relative.places)
            stored.places.extend(relative.places)
            stored.values.extend(relative.values)
            for place, kind, symbol, addend in others:
                places.append(place)
                if kind == R_X86_64_IRELATIVE:
                    resolvers.add(addend % (1 << 64))
                    given.add(addend % (1 << 64))
                elif kind == R_X86_64_RELATIVE:
                    _store(stored, place, addend)
                elif kind in (R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT):
                    _, section, value = next(iter(self._symbols((symbol,))))
                    if section not in (SHN_UNDEF, SHN_ABS):
                        _store(stored, place, value + (addend if kind == R_X86_64_64 else 0))
        for place in self._packed():
            _store(stored, place, self._word(place))
        arrays = tuple(
            (self._tags[at], self._tags[at] + self._tags.get(size, 0)) for at, size in _ARRAYS if at in self._tags
        )
        return CodePointers(
            given=frozenset(given | objects),
            objects=frozenset(objects - given),
            resolvers=frozenset(resolvers),
            stored=stored,
            places=places,
            arrays=arrays,
        )

    def places_of(self, names: Set[str]) -> set[int]:
        """See `import_places`."""
        found = set()
        for place, kind, symbol, _ in chain.from_iterable(others for _, others in self._relocations()):
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

    def _symbols(self, numbers: Iterable[int]) -> Iterator[tuple[int, int, int]]:
        """Yield type, section and value of some symbols."""
        table, held, size = self._tags.get(DT_SYMTAB), self._held_symbols, _SYMBOL.size
        for number in numbers:
            if table is None or number >= SYMBOLS:
                raise AuditError("the ELF file is corrupt: it has no such symbol", where=self._where)
            if (number + 1) * size <= len(held):
                _, info, _, section, value, _ = _SYMBOL.unpack_from(held, number * size)
            else:
                raw = self._at(table + number * size, size, "the dynamic symbol table")
                _, info, _, section, value, _ = _SYMBOL.unpack(raw)
            yield info & 0xF, section, value

    @cached_property
    def _held_symbols(self) -> bytes:
        """The first symbols of the table, as far as its segment has bytes: there is no number of them."""
        table = self._tags.get(DT_SYMTAB, 0)
        for part in self._layout.segments:
            if part.type == PT_LOAD and part.address <= table < part.address + part.file_size:
                at, rest = table - part.address + part.offset, part.address + part.file_size - table
                return self._data[at : at + min(rest, self._symbol_bytes())]
        return b""

    def _symbol_bytes(self) -> int:
        """Return the bytes that the table has at the most: the table of names is behind it in what linkers write."""
        return max(self._tags.get(DT_STRTAB, 0) - self._tags.get(DT_SYMTAB, 0), 0)

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

    def _relocations(self) -> Iterator[tuple[Stored, Iterator[tuple[int, int, int, int]]]]:
        """Yield those of each table: the relative ones at its start, and place, type, symbol and addend of the others.

        Linkers put the relative ones there, and there may be a million.
        """
        for table, size in ((DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)):
            if table in self._tags:
                count = self._tags.get(size, 0) // _RELA.size
                raw = self._at(self._tags[table], count * _RELA.size, "the relocations") if count else b""
                words = array("Q", raw)
                first = _relative(words[1::3])
                others = _RELA.iter_unpack(raw[first * _RELA.size :])
                yield (
                    Stored(words[: 3 * first : 3], words[2 : 3 * first : 3]),
                    ((place, info & 0xFFFFFFFF, info >> 32, addend) for place, info, addend in others),
                )

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
