"""Find what may be data among a file's executable bytes, and have it judged (`areas`)."""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from math import ceil, log2
from pathlib import Path
from typing import NamedTuple

from pikaforge.audit.elf.layout import ET_REL, PT_LOAD, Buffer, Layout, mapped, read_layout, release
from pikaforge.audit.elf.pointers import relative_relocations
from pikaforge.audit.elf.relocated import HEADER
from pikaforge.audit.elf.symbol_entries import symbol_entries
from pikaforge.audit.isa import leads, taken
from pikaforge.audit.isa.area_facts import AreaGiven, Judged
from pikaforge.audit.isa.areas import is_padding, judge_areas
from pikaforge.audit.isa.candidates import windows_in
from pikaforge.audit.isa.likelihood import REFERRED, SURE
from pikaforge.audit.isa.ranges import FUNCTION, GAP, PIECE_LIMIT, TABLE, Area, CodeMap
from pikaforge.audit.isa.scan_facts import FeatureHit
from pikaforge.audit.isa.worker_pool import CHUNK_BYTES, Chunk, WorkerPool, chunks
from pikaforge.errors import AuditError

PADDED = "padding"
"""Evidence for bytes that only fill a page or a gap between sections."""
TABLE_CLAIM = "a table before a function"
"""Evidence for what a compiler keeps there for its runtime (`elf.closure_tables`)."""
PLACES = 16
"""Areas that are read before their pages are given back."""
ROUNDS = 32
"""How often areas are judged again because others lead to them; programs need three."""
START = 4
"""Bytes of code per start of an instruction, about."""


class Leads(NamedTuple):
    """What the scan of a file's pieces found."""

    mixed: Sequence[tuple[int, int]]
    """Indexes of gaps that are not code from their start to their end, each with the address at which it begins."""
    outward: Set[int]
    """Targets of jumps and calls in other pieces."""
    tables: Sequence[int] = ()
    """Indexes of tables that could hold code."""


class _Held(NamedTuple):
    path: Path
    data: Buffer
    layout: Layout
    code: CodeMap


class _Place(NamedTuple):
    start: int
    end: int
    offset: int
    claim: str
    name: str
    piece: int
    """Index of the piece if it is a gap, else -1."""


@dataclass(slots=True)
class Doubtful:
    """What the bytes of a file that may be data are."""

    hits: list[tuple[int, str, FeatureHit]] = field(default_factory=list)
    """Findings, each with the index of its piece, or -1 and the name of its area."""
    codes: set[int] = field(default_factory=set)
    """Opcodes that are allowed."""
    decoded: int = 0
    """Bytes of code."""
    data: Counter[str] = field(default_factory=Counter)
    """Bytes of data by evidence."""
    unclassified: int = 0
    """Bytes of neither."""
    outward: set[int] = field(default_factory=set)
    """Targets of jumps and calls in such code that are elsewhere."""


def judge_doubtful(path: Path, code: CodeMap, found: Leads, allowed: frozenset[str], pool: WorkerPool) -> Doubtful:
    """Judge the areas of a file, and its gaps that are not code from their start to their end.

    Args:
        path: the file.
        code: its pieces and areas.
        found: what the scan of the pieces found.
        allowed: ids of the features that are no finding.
        pool: the worker processes.
    """
    out = Doubtful()
    with mapped(path) as data:
        places = [*_places(data, code, found.mixed, out), *_tables(code, found, out)]
        if places:
            layout = read_layout(data, str(path))
            _AreaSearch(_Held(path, data, layout, code), places, allowed, pool).run(found.outward, out)
    return out


def _places(data: Buffer, code: CodeMap, mixed: Sequence[tuple[int, int]], out: Doubtful) -> Iterator[_Place]:
    for number, place in enumerate(chain.from_iterable(map(_cut, code.areas))):
        if number % PLACES == 0:
            release(data)
        if is_padding(data[place.offset : place.offset + place.end - place.start]):
            out.data[PADDED] += place.end - place.start
        else:
            yield place
    for index, start in mixed:
        offset = code.offsets[index] + start - code.starts[index]
        yield _Place(start, code.ends[index], offset, "", code.name(index), index)


def _tables(code: CodeMap, found: Leads, out: Doubtful) -> Iterator[_Place]:
    """Yield the tables that could hold code, and those to which code leads; all others are data."""
    if TABLE not in code.kinds:
        return
    doubtful = {*found.tables, *(code.at(a) for a in found.outward)}
    for index, kind in enumerate(code.kinds):
        if kind == TABLE:
            start, end = code.starts[index], code.ends[index]
            if index in doubtful:
                yield _Place(start, end, code.offsets[index], TABLE_CLAIM, code.name(index), -1)
            else:
                out.data[TABLE_CLAIM] += end - start


def _cut(area: Area) -> Iterator[_Place]:
    for start in range(area.start, area.end, PIECE_LIMIT):
        end = min(start + PIECE_LIMIT, area.end)
        yield _Place(start, end, area.offset + start - area.start, area.claim, area.name, -1)


class _AreaSearch:
    """The judgement of the areas of one file."""

    def __init__(self, held: _Held, places: Sequence[_Place], allowed: frozenset[str], pool: WorkerPool) -> None:
        self._path, self._data, self._layout, self._code = held
        self._places = sorted(places)
        self._spans = tuple((p.start, p.end) for p in self._places)
        self._allowed, self._pool = allowed, pool

    def run(self, outward: Iterable[int], out: Doubtful) -> None:
        """Judge all areas; those to which others turn out to lead once more.

        Raises:
            AuditError: one leads to the other in a long chain, as no compiler makes it.
        """
        certain, named = leads.given(self._data, self._layout, str(self._path), self._spans)
        certain = {*certain, *self._code.entered, *outward}
        certain |= {p.start for p in self._places if leads.runs_on(self._data, self._code, p.start)}
        certain = leads.those_within(array("Q", certain), self._spans)
        fixed = self._relocations(certain | leads.those_within(array("Q", named), self._spans))
        spans = self._doubted(fixed)
        named = (named | self._named(spans)) - certain
        named = {a for a in named if leads.within(a, spans)}
        results: dict[int, Judged] = {}
        waiting = self._numbers((*certain, *named, *(low for low, _ in spans))) - self._relocations(certain | named)
        for _ in range(ROUNDS):
            given = self._given(certain, named)
            more: set[int] = set()
            touched: set[int] = set()
            for some in self._pool.each(judge_areas, self._chunks(sorted(waiting)), given):
                for judged in some:
                    results[judged.number] = judged
                    more.update(judged.outward)
                    touched.update(judged.taken)
            certain, waiting = self._led_to(more - certain, certain, results)
            named, others = self._led_to(touched - named - certain, named, results)
            waiting |= others
            if not waiting:
                break
        else:
            raise AuditError(
                "it leads from data to data without end",
                where=str(self._path),
                hint="what is called there cannot be told",
            )
        self._collect(results, out)

    def _doubted(self, relocations: Set[int]) -> leads.Spans:
        """Return the ranges of addresses that are not surely data: gaps, what `windows_in` finds, and relocations."""
        whole = {n for n, p in enumerate(self._places) if p.piece >= 0} | relocations
        spans = [self._spans[n] for n in whole]
        others = [n for n in range(len(self._places)) if n not in whole]
        for part in self._pool.each(windows_in, self._chunks(others), self._allowed):
            spans += part
        return tuple(sorted(spans))

    def _named(self, spans: leads.Spans) -> set[int]:
        """Return the addresses in some ranges that symbols, words of data and code name."""
        named = {self._code.starts[p.piece] for p in self._places if p.piece >= 0 and self._code.names[p.piece] >= 0}
        if spans:
            named.update(leads.words(self._data, self._layout, spans))
            wanted = taken.wanted(self._layout, self._code, spans)
            for part in self._pool.each(taken.taken, chunks(self._path, self._code), wanted):
                named.update(part)
        return named

    def _numbers(self, addresses: Iterable[int]) -> set[int]:
        """Return the numbers of the areas in which some addresses are."""
        return {bisect_right(self._spans, (a, 1 << 64)) - 1 for a in addresses}

    def _relocations(self, led: Set[int]) -> set[int]:
        """Return the numbers of the areas that hold only relocations or symbols, to none of which anything leads."""
        found: set[int] = set()
        for low, high in self._tables:
            found |= {n for n, p in enumerate(self._places) if p.piece < 0 and low <= p.start and p.end <= high}
        return found - self._numbers(led)

    @cached_property
    def _tables(self) -> list[tuple[int, int]]:
        """The tables of the loader whose entries all have the form of such."""
        found = []
        for read in (relative_relocations, symbol_entries):
            with suppress(AuditError):
                found.append(read(self._data, self._layout, str(self._path)))
        return found

    def _led_to(self, more: set[int], starts: set[int], results: dict[int, Judged]) -> tuple[set[int], set[int]]:
        """Return all starts, and the numbers of the areas in which new ones are not taken for code yet."""
        waiting: dict[int, bytes] = {}
        new = set()
        for address in sorted(a for a in more if leads.within(a, self._spans)):
            number = bisect_right(self._spans, (address, 1 << 64)) - 1
            if number in results and number not in waiting:
                waiting[number] = zlib.decompress(results[number].begun)
            if number not in results or not waiting[number][address - self._spans[number][0]]:
                new.add(address)
        return starts | new, self._numbers(new)

    def _given(self, certain: set[int], named: set[int]) -> AreaGiven:
        size = sum(p.end - p.start for p in self._places)
        loads = [s for s in self._layout.segments if s.type == PT_LOAD]
        return AreaGiven(
            allowed=self._allowed,
            certain=array("Q", sorted(certain)),
            referred=array("Q", sorted(named)),
            needed=SURE + ceil(log2(max(size // START, 1))),
            referred_needed=REFERRED + ceil(log2(max(len(named), 1))),
            running=self._running(),
            loaded=tuple((s.address, s.address + s.memory_size) for s in loads),
            formed=tuple(self._tables),
        )

    def _running(self) -> tuple[tuple[int, int], ...]:
        """Return few ranges that hold all code: for the question whether a target is likely."""
        code, areas = self._code, self._code.areas  # a map may have a million pieces: they are not copied
        starts = [min(held) for held in (code.starts, [a.start for a in areas]) if held]
        ends = [max(held) for held in (code.ends, [a.end for a in areas]) if held]
        elsewhere = ((0, HEADER),) if self._layout.type == ET_REL else ()  # what object files name of others
        return ((min(starts), max(ends)), *elsewhere) if starts else ()

    def _chunks(self, numbers: Sequence[int]) -> Iterator[Chunk]:
        """Yield places in chunks. Their indexes are consecutive in a chunk."""
        first = 0
        while first < len(numbers):
            last, size = first, 0
            while last < len(numbers) and numbers[last] - numbers[first] == last - first and size < CHUNK_BYTES // 4:
                size += self._places[numbers[last]].end - self._places[numbers[last]].start
                last += 1
            part = [self._places[n] for n in numbers[first:last]]
            yield Chunk(
                str(self._path),
                numbers[first],
                array("Q", [p.start for p in part]),
                array("Q", [p.end for p in part]),
                array("Q", [p.offset for p in part]),
                bytes(FUNCTION if p.piece < 0 else GAP for p in part),
            )
            first = last

    def _collect(self, results: dict[int, Judged], out: Doubtful) -> None:
        for number, place in enumerate(self._places):
            size = place.end - place.start
            if number not in results:  # relocations, symbols
                out.data[place.claim] += size
                continue
            judged = results[number]
            out.hits += [(place.piece, place.name, hit) for hit in judged.hits]
            out.codes |= judged.codes
            out.decoded += judged.decoded
            out.unclassified += judged.unclassified
            out.data.update(judged.data)
            out.outward.update(judged.outward)
            if place.piece < 0 and size > judged.decoded:
                out.data[place.claim] += size - judged.decoded
