"""Cut the code of a file into pieces: functions by symbols and `.eh_frame`, and the gaps between them.

Decoding a section from its start to its end is unsound: where padding or data precedes a function, an instruction that
is decoded there can include the function's first bytes. So every known start of a function begins a piece of its own.
All executable bytes are in a piece, or in an area: a range that is no code by a symbol or a section header. Areas are
judged, too (`areas`).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from operator import sub
from typing import NamedTuple

from pikaforge.audit.elf.closure_tables import read_tables
from pikaforge.audit.elf.executable import Region
from pikaforge.audit.elf.frames import read_frames
from pikaforge.audit.elf.gopclntab import read_functions
from pikaforge.audit.elf.layout import SHT_DYNSYM, SHT_SYMTAB, Buffer, Layout, release, text
from pikaforge.audit.elf.pointers import irelative
from pikaforge.audit.elf.symbol_table import SYMBOL, read_symbol_table

FUNCTION, FRAME, GAP, TABLE = 0, 1, 2, 3
"""Kinds of pieces: by a symbol, by the unwind table only, what is between them, and tables of data before functions."""
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_GNU_IFUNC = 0, 1, 2, 10
SHN_UNDEF, SHN_LORESERVE = 0, 0xFF00
NOWHERE = -1
PIECE_LIMIT = 256 << 10
"""In bytes. Longer gaps are cut, so that a file without symbols and unwind table is decoded in parts. A cut may lie
within an instruction: `CodeMap.cuts` names the pieces that begin at one."""
OBJECT_CLAIM = "a symbol declares it to be data"
LAST = (1 << 64) - 1
"""The last virtual address."""
Ranges = tuple["array[int]", "array[int]"]
"""Ranges of addresses, ascending: their starts, and their ends."""


class Symbol(NamedTuple):
    """A symbol that is defined in an executable region."""

    address: int
    size: int
    kind: int
    weight: int
    """Its precedence where several symbols begin at one address: global before weak before local."""
    name: int
    """Offset of its name in the string table."""


class Area(NamedTuple):
    """A range of executable bytes that claims to be no code."""

    start: int
    """Virtual address."""
    end: int
    offset: int
    """Offset of its start in the file."""
    claim: str
    """What says that it is no code."""
    name: str


@dataclass(frozen=True, kw_only=True)
class CodeMap:
    """The pieces of one file, in the order of addresses, as parallel arrays: there may be a million."""

    starts: array[int]
    """Virtual addresses."""
    ends: array[int]
    offsets: array[int]
    """Offsets of their starts in the file."""
    kinds: bytearray
    """`FUNCTION`, `FRAME`, `GAP` or `TABLE`."""
    names: array[int]
    """Offset of the name in `strings`, or -1."""
    strings: bytes
    resolvers: frozenset[int]
    """Addresses of functions that choose an implementation at start-up (ifunc)."""
    plain: frozenset[int] = frozenset()
    """Addresses of functions without exception handlers."""
    cuts: frozenset[int] = frozenset()
    """Indexes of the pieces that go on with the gap of the piece before."""
    areas: tuple[Area, ...] = ()
    """What claims to be no code, in the order of addresses."""
    entered: tuple[int, ...] = ()
    """Addresses in areas at which functions begin, by symbols and the unwind table."""
    problem: str = ""
    """Why the unwind table or Go's table of functions could not be read to its end; empty if they were."""

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def sizes(self) -> array[int]:
        """The number of bytes in all pieces up to one."""
        return array("Q", accumulate(map(sub, self.ends, self.starts)))

    @property
    def size(self) -> int:
        """The number of bytes in all pieces."""
        return self.sizes[-1] if self.sizes else 0

    def name(self, index: int) -> str:
        """Return the name of a piece: its symbol, else `range@0x…` (a frame) or `gap@0x…`."""
        if self.names[index] != NOWHERE and (name := text(self.strings, self.names[index])):
            return name
        return f"{'gap' if self.kinds[index] in (GAP, TABLE) else 'range'}@{self.starts[index]:#x}"

    def begin(self, index: int) -> int:
        """Return the index of the piece with which the gap of a piece begins; of others the index itself."""
        while index in self.cuts:
            index -= 1
        return index

    def at(self, address: int) -> int:
        """Return the index of the piece that holds an address; -1 if none does."""
        index = bisect_right(self.starts, address) - 1
        return index if index >= 0 and address < self.ends[index] else NOWHERE


def read_map(
    data: Buffer,
    layout: Layout,
    regions: Sequence[Region],
    where: str,
    *,
    debug: tuple[Buffer, Layout] | None = None,
) -> CodeMap:
    """Return the pieces of a file.

    Args:
        data: the whole file.
        layout: its layout.
        regions: what of it may be executed.
        where: its name, for errors.
        debug: its separate debug information, which has the symbols if the file itself was stripped.

    Raises:
        AuditError: its symbol table is truncated.
    """
    stripped = not any(s.type == SHT_SYMTAB and s.in_file for s in layout.sections)
    held = debug if debug is not None and stripped else (data, layout)
    symbols, strings = _symbols(*held, regions, where)
    go = read_functions(data, layout)  # a stripped Go program has the names and ends of its functions there
    symbols += [Symbol(start, end - start, STT_FUNC, 0, len(strings) + name) for start, end, name in go.ranges]
    strings += go.strings
    release(data)
    frames = read_frames(data, layout)
    resolvers = {s.address for s in symbols if s.kind == STT_GNU_IFUNC} | set(irelative(data, layout, where))
    builder = _RegionCutter(symbols, strings, frames.ranges, read_tables(data, layout, regions))
    release(data)
    for region in regions:
        builder.add(region)
    problems = "; ".join(filter(None, (frames.problem, go.problem)))
    return builder.map(frozenset(resolvers), frames.plain, problems)


def _symbols(data: Buffer, layout: Layout, regions: Sequence[Region], where: str) -> tuple[list[Symbol], bytes]:
    raw, strings = read_symbol_table(data, layout, (SHT_SYMTAB, SHT_DYNSYM), where)
    starts = [r.address for r in regions]
    ends = [r.address + r.size for r in regions]
    found: list[Symbol] = []
    for name, info, _, section, address, size in SYMBOL.iter_unpack(raw):
        kind = info & 0xF
        if section == SHN_UNDEF or section >= SHN_LORESERVE or kind not in (
            STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_GNU_IFUNC):  # fmt: skip
            continue
        index = bisect_right(starts, address) - 1
        if index >= 0 and address < ends[index]:
            binding = info >> 4
            weight = (1, 3, 2)[binding] if binding < 3 else 0
            found.append(Symbol(address, size, kind, weight, name))
    return found, strings


def _merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return ascending ranges with the same addresses that neither overlap nor touch."""
    starts, ends = array("Q"), array("Q")
    for start, end in sorted(ranges):
        if ends and start <= ends[-1]:
            ends[-1] = max(end, ends[-1])
        else:
            starts.append(start)
            ends.append(end)
    return starts, ends


def _parts(ranges: Ranges, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of ascending, disjoint ranges that lie in [start, end)."""
    starts, ends = ranges
    index = max(bisect_left(starts, start) - 1, 0)
    while index < len(starts) and starts[index] < end:
        low, high = max(starts[index], start), min(ends[index], end)
        if low < high:
            yield low, high
        index += 1


def _within(addresses: Sequence[int], areas: Iterable[Area]) -> Iterator[int]:
    for area in areas:
        yield from addresses[bisect_left(addresses, area.start) : bisect_left(addresses, area.end)]


class _RegionCutter:
    """Cuts regions into pieces."""

    def __init__(
        self,
        symbols: list[Symbol],
        strings: bytes,
        frames: Sequence[tuple[int, int]],
        tables: Ranges,
    ) -> None:
        self._strings = strings
        functions: dict[int, Symbol] = {}
        labels: dict[int, Symbol] = {}
        objects: list[tuple[int, int]] = []
        for symbol in symbols:
            if symbol.kind == STT_OBJECT:
                if symbol.size:
                    objects.append((symbol.address, min(symbol.address + symbol.size, LAST)))
            elif symbol.size and symbol.kind != STT_NOTYPE:
                # Of symbols at one address the longest one gives the name; of equals the most public one.
                old = functions.get(symbol.address)
                if old is None or (symbol.size, symbol.weight) > (old.size, old.weight):
                    functions[symbol.address] = symbol
            elif strings[symbol.name : symbol.name + 1] not in (b"", b"\0", b"."):  # .L and .annobin are no names
                old = labels.get(symbol.address)
                if old is None or symbol.weight > old.weight:
                    labels[symbol.address] = symbol
        self._labels = labels
        self._label_starts = sorted(labels)
        self._label = 0  # the place in it of the first one that is not before the last gap that was asked for
        self._objects, self._tables = _merged(objects), tables
        self._known = sorted(self._merge(functions, frames))
        self._known_starts = [k[0] for k in self._known]
        self._out = (array("Q"), array("Q"), array("Q"), bytearray(), array("q"))
        self._cuts: set[int] = set()
        self._areas: list[Area] = []

    def _merge(
        self, functions: dict[int, Symbol], frames: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[int, int, int, int]]:
        """Yield start, end, kind and name of functions by symbols, and of frames at which no symbol begins."""
        for start, symbol in functions.items():
            yield start, start + symbol.size, FUNCTION, symbol.name
        for start, end in frames:
            if start not in functions:
                label = self._labels.get(start)
                yield start, end, FRAME, label.name if label else NOWHERE

    def add(self, region: Region) -> None:
        """Cut one region. Every known start begins a piece, which ends at its own end or at the next start."""
        bounds = (region.address, region.address + region.size)
        known = self._known[bisect_left(self._known_starts, bounds[0]) : bisect_left(self._known_starts, bounds[1])]
        at = bounds[0]
        open_: list[tuple[int, int, int]] = []  # functions that enclose the current place: (end, kind, name)
        put = self._usual(region)
        for index, (start, end, kind, name) in enumerate(known):
            if put is not None and not open_ and at <= start:  # most functions: what is below does the same
                following = known[index + 1][0] if index + 1 < len(known) else bounds[1]
                if end <= following and (at == start or self._is_short(at, start)):
                    if at < start:
                        put(at, start, GAP, NOWHERE)
                    put(start, end, kind, name)
                    at = end
                    continue
            at = self._until(region, open_, at, start)
            if open_ and kind == FRAME and name == NOWHERE and open_[-1][0] >= end:
                name = open_[-1][2]  # noqa: PLW2901  # a frame within a function belongs to it
            following = known[index + 1][0] if index + 1 < len(known) else bounds[1]
            stop = min(end, bounds[1])
            self._code(region, at, min(stop, max(following, at)), kind, name)
            at = max(at, min(stop, following))
            if stop > following:
                open_.append((stop, kind, name))
        self._until(region, open_, at, bounds[1])

    def _usual(self, region: Region) -> Callable[[int, int, int, int], None] | None:
        """Return what adds a piece that is not empty to a region of code without data; None for other regions."""
        low, high = region.address, region.address + region.size
        if region.claim or any(True for held in (self._objects, self._tables) for _ in _parts(held, low, high)):
            return None
        starts, ends, offsets, kinds, names = (held.append for held in self._out)
        shift = region.offset - low

        def put(start: int, end: int, kind: int, name: int) -> None:
            starts(start)
            ends(end)
            offsets(start + shift)
            kinds(kind)
            names(name)

        return put

    def _is_short(self, start: int, end: int) -> bool:
        """Return whether a gap is not cut, and has no name. Gaps are asked for in the order of addresses."""
        labels = self._label_starts
        while self._label < len(labels) and labels[self._label] < start:
            self._label += 1
        return end - start <= PIECE_LIMIT and (self._label == len(labels) or labels[self._label] >= end)

    def _until(self, region: Region, around: list[tuple[int, int, int]], at: int, start: int) -> int:
        """Add pieces for [at, start): the rest of the enclosing functions, then a gap."""
        while around and at < start:
            end, kind, name = around[-1]
            if end <= at:
                around.pop()
                continue
            stop = min(end, start)
            self._code(region, at, stop, kind, name)
            at = stop
        if at < start:
            self._gap(region, at, start)
        return max(at, start)

    def _gap(self, region: Region, start: int, end: int) -> None:
        if region.claim:
            self._areas.append(Area(start, end, start - region.address + region.offset, region.claim, region.name))
            return
        first = bisect_right(self._label_starts, start)
        following = self._label_starts[first] if first < len(self._label_starts) else end
        if following >= end and end - start <= PIECE_LIMIT:  # most gaps
            label = self._labels.get(start)
            self._code(region, start, end, GAP, label.name if label else NOWHERE)
            return
        cuts = [start, *self._label_starts[first : bisect_left(self._label_starts, end)], end]
        for low, high in pairwise(cuts):
            label = self._labels.get(low)
            name = label.name if label else NOWHERE
            for at in range(low, high, PIECE_LIMIT):
                before = self._out[1][-1] if len(self._out[1]) else 0
                number = len(self._out[0])
                self._code(region, at, min(at + PIECE_LIMIT, high), GAP, name)
                if at > low and before == at and len(self._out[0]) > number and self._out[0][number] == at:
                    self._cuts.add(number)

    def _code(self, region: Region, start: int, end: int, kind: int, name: int) -> None:
        """Add a piece without the data that symbols declare in it, and that data as areas."""
        if not self._objects[0] and not self._tables[0]:
            self._piece(region, start, end, kind, name)
            return
        at = start
        for low, high in _parts(self._objects, start, end):
            self._without_tables(region, at, low, kind, name)
            place = low - region.address + region.offset
            self._areas.append(Area(low, high, place, OBJECT_CLAIM, f"object@{low:#x}"))
            at = high
        self._without_tables(region, at, end, kind, name)

    def _without_tables(self, region: Region, start: int, end: int, kind: int, name: int) -> None:
        """Add a piece, with the tables in it as pieces of their own."""
        at = start
        for low, high in _parts(self._tables, start, end):
            self._piece(region, at, low, kind, name)
            self._piece(region, low, high, TABLE, NOWHERE)
            at = high
        self._piece(region, at, end, kind, name)

    def _piece(self, region: Region, start: int, end: int, kind: int, name: int) -> None:
        if start < end:
            starts, ends, offsets, kinds, names = self._out
            starts.append(start)
            ends.append(end)
            offsets.append(start - region.address + region.offset)
            kinds.append(kind)
            names.append(name)

    def map(self, resolvers: frozenset[int], plain: frozenset[int], problem: str) -> CodeMap:
        """Return the pieces of all regions."""
        starts, ends, offsets, kinds, names = self._out
        return CodeMap(
            starts=starts,
            ends=ends,
            offsets=offsets,
            kinds=kinds,
            names=names,
            strings=self._strings,
            resolvers=resolvers,
            plain=plain,
            cuts=frozenset(self._cuts),
            areas=tuple(self._areas),
            entered=tuple(_within(self._known_starts, self._areas)),
            problem=problem,
        )
