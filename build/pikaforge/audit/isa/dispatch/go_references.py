"""What the code of a Go program refers to: functions that jump to, call or name others, and users of its variables.

There may be a million references, so all of them are in arrays. Worker processes read them (`named`).
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pikaforge.audit.elf.gopclntab import SECTION
from pikaforge.audit.elf.layout import PF_X, PT_LOAD, SHT_DYNSYM, SHT_RELA, SHT_SYMTAB, Buffer, Layout, mapped, release
from pikaforge.audit.isa.dispatch.graph import Callers
from pikaforge.audit.isa.dispatch.rows import AddressSet, Rows, is_in, numbers, row_of
from pikaforge.audit.isa.piece_scan import units
from pikaforge.audit.isa.ranges import NOWHERE, TABLE, CodeMap
from pikaforge.audit.isa.worker_pool import Chunk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pikaforge.audit.isa.dispatch.rows import Numbers, Places

WORD, RELA = 8, 24
"""Bytes of a pointer, and of a relocation (Elf64_Rela), whose last word is the addend."""
BLOCK = 1 << 20
"""Bytes of data that are looked at at once."""


class Asked(NamedTuple):
    """How a program's code is read."""

    low: int
    high: int
    """The addresses of the program: the first one, and the one behind the last."""
    fixed: bool
    """Whether the program has a fixed address, so that a displacement may be an address."""
    quick: bool
    """Whether many instructions are decoded at once, which pays in large programs."""


class Named(NamedTuple):
    """The addresses that pieces jump to, call or name, but for those within themselves."""

    pieces: array[int]
    counts: array[int]
    """The number of addresses of each."""
    addresses: array[int]
    """Those of all pieces."""


def named(chunk: Chunk, asked: Asked) -> Named:
    """Return the addresses of a program that the pieces of a chunk jump to, call or name; workers run this."""
    if not asked.quick or TABLE in chunk.kinds:
        return _one_by_one(chunk, asked, None)
    from pikaforge.audit.isa.swept.references import Operands, referred  # noqa: PLC0415

    left: set[int] = set()
    with mapped(Path(chunk.path)) as data:
        found = referred(chunk, data, ((asked.low, asked.high),), left, Operands(wide=False, displaced=asked.fixed))
    owner = np.repeat(numbers(found.pieces), numbers(found.counts).astype(np.int64))
    place = owner - np.uint64(chunk.first)
    addresses = numbers(found.addresses)
    outside = (addresses < numbers(chunk.starts)[place]) | (addresses >= numbers(chunk.ends)[place])
    rest = _one_by_one(chunk, asked, chunk.with_gaps(left), left) if left else Named(array("q"), array("q"), array("Q"))
    pieces, counts = np.unique(owner[outside], return_counts=True)
    return Named(
        array("q", pieces.astype(np.int64).tobytes()) + rest.pieces,
        array("q", counts.astype(np.int64).tobytes()) + rest.counts,
        array("Q", addresses[outside].tobytes()) + rest.addresses,
    )


def _one_by_one(chunk: Chunk, asked: Asked, wanted: frozenset[int] | None, kept: Iterable[int] | None = None) -> Named:
    """Return what `named` does, of those pieces that are wanted and kept; None: of all."""
    from iced_x86 import Register  # noqa: PLC0415

    branch, place = attrgetter("near_branch_target"), attrgetter("memory_base", "memory_displacement")
    low, high, fixed, _ = asked
    out = Named(array("q"), array("q"), array("Q"))
    with mapped(Path(chunk.path)) as data:
        for index, parts in groupby(units(chunk, data, wanted=wanted), key=attrgetter("piece")):
            instructions = list(chain.from_iterable(part.instructions for part in parts))
            if kept is not None and index not in kept:
                continue
            start, end = chunk.starts[index - chunk.first], chunk.ends[index - chunk.first]
            met = set(map(branch, instructions))
            met.update(at for base, at in map(place, instructions) if fixed or base == Register.RIP)
            met.discard(0)  # what iced gives for instructions that have none
            addresses = array("Q", sorted(a for a in met if low <= a < high and not start <= a < end))
            if addresses:
                out.pieces.append(index)
                out.counts.append(len(addresses))
                out.addresses.extend(addresses)
    return out


class GoReferences:
    """The references of a Go program's code."""

    def __init__(self, code: CodeMap, found: Iterable[Named]) -> None:
        """Keep what was found in all chunks."""
        parts = list(found)
        pieces, counts, addresses = (
            np.concatenate([np.empty(0, np.uint64), *(numbers(part[place]) for part in parts)]) for place in range(3)
        )
        parts.clear()
        owner = np.repeat(pieces.astype(np.int32), counts.astype(np.int64))
        target = row_of(numbers(code.starts), numbers(code.ends), addresses).astype(np.int32)
        in_code = target >= 0
        known = np.zeros(len(code), bool)
        known[target[in_code]] = True
        self._callers = Callers(target[in_code], owner[in_code], addresses[in_code], known)
        self._places, self._owner = addresses[~in_code], owner[~in_code]
        self._users = Rows(self._places, self._owner)

    def callers(self, piece: int) -> frozenset[tuple[int, int]]:
        """Return the pieces that refer to a piece, each with the address to which it refers."""
        return self._callers.get(piece)

    def users(self, address: int) -> array[int]:
        """Return the pieces that name an address of data."""
        return self._users.get(address)

    def object_at(self, address: int) -> int:
        """Return the address at which the data that hold an address begin: the last one before it that code names.

        The result is -1 if there is none.
        """
        at = int(self._users.keys.searchsorted(np.uint64(address), side="right")) - 1
        return int(self._users.keys[at]) if at >= 0 else NOWHERE

    def data_of(self, pieces: Iterable[int]) -> AddressSet:
        """Return the addresses of data that some pieces name."""
        wanted = np.sort(numbers(frozenset(pieces)))
        return AddressSet(self._places[is_in(self._owner.astype(np.uint64), wanted)])


def with_name(code: CodeMap, pattern: re.Pattern[bytes]) -> Iterator[int]:
    """Yield the indexes of the pieces whose names have a pattern, which matches no zero byte."""
    spans: list[tuple[int, int]] = []
    for match in pattern.finditer(code.strings):
        if not spans or match.start() >= spans[-1][1]:
            end = code.strings.find(b"\0", match.end())
            spans.append((code.strings.rfind(b"\0", 0, match.start()) + 1, end if end >= 0 else len(code.strings)))
    starts, ends = np.array(spans, np.uint64).reshape(-1, 2).T
    names = np.frombuffer(code.names, np.uint64) if len(code) else np.empty(0, np.uint64)  # -1 is beyond all names
    rows = row_of(starts, ends, names)
    for index in np.flatnonzero(rows >= 0).tolist():
        if pattern.search(code.strings, code.names[index], spans[rows[index]][1]):
            yield index


def addresses_held(data: Buffer, layout: Layout, low: int, high: int) -> Rows:
    """Return the offsets at which a program's data hold an address from one to before another, by that address.

    They may be anywhere. The table of functions and symbols is left out: they name functions, and nobody but a plugin
    of the same program calls one through them.
    """
    tables = [
        (s.offset, s.offset + s.size)
        for s in layout.sections
        if s.name.endswith(SECTION) or s.type in (SHT_SYMTAB, SHT_DYNSYM)
    ]
    words, offsets = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    for part in layout.segments:
        if part.type == PT_LOAD and not part.flags & PF_X:
            for at in range(part.offset, part.offset + part.file_size, BLOCK):
                end = min(at + BLOCK + WORD - 1, part.offset + part.file_size, len(data))
                for found, held in _words(data, (at, end), tables, (np.uint64(low), np.uint64(high))):
                    words.append(found)
                    offsets.append(held.astype(np.uint64))
            release(data)
    return Rows(np.concatenate(words), np.concatenate(offsets))


def place_of(data: Buffer, layout: Layout, offset: int) -> int:
    """Return the address of the word at an offset of the file; of a relocation's addend that which the loader writes.

    The result is -1 if the word is no pointer in memory: another field of a relocation, or elsewhere.
    """
    for section in layout.sections:
        within = offset - section.offset
        if section.type == SHT_RELA and 0 <= within < section.size:
            start = offset - (RELA - WORD)
            return int.from_bytes(data[start : start + WORD], "little") if within % RELA == RELA - WORD else NOWHERE
    address = layout.address_of(offset)
    return NOWHERE if address is None else address


def _words(
    data: Buffer, part: tuple[int, int], tables: list[tuple[int, int]], bounds: tuple[np.uint64, np.uint64]
) -> Iterator[tuple[Numbers, Places]]:
    """Yield words within bounds that begin at any offset of a part of a file, but for those in tables, and where."""
    start, end = part
    raw = np.frombuffer(data[start:end], np.uint8)
    for shift in range(min(WORD, max(len(raw) - WORD + 1, 0))):
        words: Numbers = raw[shift : shift + (len(raw) - shift) // WORD * WORD].view(np.uint64)
        met: Places = np.flatnonzero((words >= bounds[0]) & (words < bounds[1]))
        at = met * WORD + (start + shift)
        outside: NDArray[np.bool_] = np.ones(len(met), bool)
        for low, high in tables:
            outside &= (at < low) | (at >= high)
        yield words[met[outside]], at[outside]
