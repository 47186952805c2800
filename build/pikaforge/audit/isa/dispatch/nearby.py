"""Prove a dispatch from nearby: what refers to some code are functions that ask the CPU, or do not lead there.

The whole search (`search`) reads the references of all code, which takes longer than to decode it. Often a proof needs
few of them: libstdc++'s random_device, which is linked into large programs, names its functions for RDRAND in one
function that runs CPUID, and in one that only compares a pointer with them. So this looks in the bytes for what refers
to the code in question: a reference has a field of 32 bits with the distance, or with the address. Only functions with
such a field are decoded.

The proof holds under the assumptions of `flow`. Memory and the results of calls are unknown here, and each function is
entered wherever something refers to it. What is not shown in this way is left to the whole search.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from pikaforge.audit.elf.executable import PADDING
from pikaforge.audit.elf.layout import ET_EXEC, PT_LOAD, Buffer, Layout, mapped
from pikaforge.audit.elf.pointers import CodePointers
from pikaforge.audit.isa import leads
from pikaforge.audit.isa.dispatch import flow
from pikaforge.audit.isa.dispatch.local import TESTED, local_evidence
from pikaforge.audit.isa.dispatch.references import Found, references
from pikaforge.audit.isa.dispatch.state import Exhausted, Summary
from pikaforge.audit.isa.dispatch.steps import Body, body
from pikaforge.audit.isa.dispatch.values import UNKNOWN, Value
from pikaforge.audit.isa.ranges import GAP, NOWHERE, TABLE, CodeMap
from pikaforge.audit.isa.stretches import Stretch, stretches
from pikaforge.audit.isa.swept import QUICK_BYTES
from pikaforge.audit.isa.taken import FIELD, IMMEDIATE, may_lead
from pikaforge.audit.isa.worker_pool import Chunk, WorkerPool, chunks
from pikaforge.cpu import features

PIECES = 64
"""The most pieces that are looked at: with more, the whole search is cheaper."""
ROUNDS = 4
"""How often functions are looked for that refer to functions which lead to the code on each CPU."""
LEVELS = 8
"""The most such functions."""
WORK = 50_000
"""The most instructions that are run for one feature."""
LARGEST = 64 << 10
"""Bytes of the largest function that is run."""
WINDOW = 1 << 16
"""Bytes of code in which the upper half of a distance to one address has two values."""
SHORT = 130
"""Bytes over which branches with a distance of 8 bits lead, at most."""
PADDED = 64
"""Bytes of the longest piece of padding before a function."""
Ranges = tuple[tuple[int, int], ...]


class Sought(NamedTuple):
    """References that are looked for."""

    ranges: Ranges
    """Where they lead to, ascending and disjoint."""
    fixed: bool
    """Whether the program has a fixed address, so that instructions may hold addresses."""
    always: tuple[int, ...]
    """Pieces that are decoded in any case, ascending."""
    quick: bool = False
    """Whether there is so much code that numpy looks for fields."""


def references_to(chunk: Chunk, sought: Sought) -> Found:
    """Return the pieces of a chunk that refer to some ranges, as `references` does; worker processes run this."""
    wanted = {index for index in sought.always if 0 <= index - chunk.first < len(chunk.starts)}
    with mapped(Path(chunk.path)) as data:
        for stretch in stretches(chunk, data):
            for address in _fields_at_once(stretch, sought) if sought.quick else _fields(stretch, sought):
                # An instruction may go on behind a cut, so that its field is in the piece behind its own.
                index = chunk.first + bisect_right(chunk.starts, address, stretch.first, stretch.last) - 1
                wanted |= {index, index - 1} if index in chunk.cuts else {index}
    pieces = chunk.with_gaps(index for index in wanted if chunk.kinds[index - chunk.first] != TABLE)
    return references(chunk, sought.ranges, fixed=sought.fixed, wanted=pieces) if pieces else []


def _fields_at_once(stretch: Stretch, sought: Sought) -> Iterator[int]:
    """Do what `_fields` does, with numpy."""
    from pikaforge.audit.isa.swept.fields import fields  # noqa: PLC0415

    for at in fields(stretch.raw, stretch.address, sought.ranges, fixed=sought.fixed):
        yield stretch.address + at


def _fields(stretch: Stretch, sought: Sought) -> Iterator[int]:
    """Yield the addresses of fields that may be a distance to one of the ranges, or an address in one."""
    starts = [low for low, _ in sought.ranges]
    raw = stretch.raw
    for window in range(0, len(raw), WINDOW):
        base = stretch.address + window
        for value in _uppers(sought.ranges, base):
            for at in _each(raw, value, window, window + WINDOW):
                if may_lead(raw, at, stretch.address, sought.ranges, starts):
                    yield stretch.address + at
    if sought.fixed:
        for value in {
            upper & 0xFFFF for low, high in sought.ranges for upper in range(low >> 16, (high - 1 >> 16) + 1)
        }:
            for at in _each(raw, value, 0, len(raw)):
                if leads.one_of(int.from_bytes(raw[at : at + FIELD], "little"), sought.ranges, starts):
                    yield stretch.address + at


def _uppers(ranges: Ranges, base: int) -> Set[int]:
    """Return the upper halves of all distances from a window of code to some ranges, as numbers of 16 bits."""
    found = set()
    for low, high in ranges:
        first, last = low - base - WINDOW - FIELD - IMMEDIATE, high - base - FIELD
        if last >= -(1 << 31) and first < 1 << 31:
            found |= {upper & 0xFFFF for upper in range(first >> 16, (last >> 16) + 1)}
    return found


def _each(raw: bytes, upper: int, low: int, high: int) -> Iterator[int]:
    """Yield the offsets in a range at which fields begin whose upper half has a value."""
    pattern = upper.to_bytes(2, "little")
    at = raw.find(pattern, low + 2, high + FIELD)
    while at >= 0:
        if low <= at - 2 < high:
            yield at - 2
        at = raw.find(pattern, at + 1, high + FIELD)


@dataclass(slots=True)
class _Alone:
    """A function without the rest of its file, on a CPU that lacks a feature. It is the `Environment` of its run."""

    absent: Mapping[tuple[int, int | None], Mapping[str, int]]
    fixed: bool
    code: CodeMap
    loaded: Ranges
    work: int = WORK

    def spend(self, steps: int) -> None:
        """See `Environment.spend`."""
        self.work -= steps
        if self.work < 0:
            raise Exhausted

    def answer(self, leaf: int | None, part: int | None) -> Mapping[str, int]:
        """See `Environment.answer`."""
        return features.zero_bits(self.absent, leaf, part)

    def load(self, address: int, size: int, *, first: bool) -> Value:
        """See `Environment.load`: nothing is known."""
        return UNKNOWN

    def call(self, target: int, arguments: Sequence[Value]) -> Summary | None:
        """See `Environment.call`: nothing is known."""
        return None

    def names(self, address: int) -> bool:
        """See `Environment.names`."""
        return self.code.at(address) != NOWHERE or any(low <= address < high for low, high in self.loaded)


@dataclass(slots=True)
class _References:
    """What refers to a piece."""

    low: int
    """The address at which the padding before it begins, which runs on into it."""
    high: int
    """The address behind it."""
    sources: set[int] = field(default_factory=set)
    """The other pieces that do, or that run on into it."""
    entries: set[int] = field(default_factory=set)
    """The addresses in it that other pieces or pointers refer to."""
    pointed: bool = False
    """Whether pointers in data, or other files, may lead to it."""


class Nearby:
    """The search in one file."""

    def __init__(
        self, path: Path, data: Buffer, layout: Layout, *, code: CodeMap, given: CodePointers, asking: Set[int]
    ) -> None:
        """Look at nothing yet.

        Args:
            path: the file.
            data: its bytes.
            layout: its layout.
            code: its pieces.
            given: the addresses in it that the loader and other files use.
            asking: indexes of the pieces that run cpuid or xgetbv.
        """
        self._path, self._data, self._layout, self._code = path, data, layout, code
        self._size = code.size
        self.given, self.asking = given, asking
        self._loaded = tuple((s.address, s.address + s.memory_size) for s in layout.segments if s.type == PT_LOAD)
        self._around: dict[int, _References] = {}
        """What refers to the pieces that were looked at."""
        self._missing: set[int] = set()
        """Pieces that must be looked at, too."""
        self._bodies: dict[int, Body] = {}
        self._led: dict[tuple[int, str], Set[int] | None] = {}
        """The addresses to which functions lead, by piece and feature."""

    def doors(self, wanted: Mapping[int, Set[str]], pool: WorkerPool) -> dict[tuple[int, str], list[int]]:
        """Return the functions by which alone some pieces are reached, and that lead there only on CPUs with a feature.

        Args:
            wanted: features by the index of the piece with code that needs them.
            pool: the worker processes.

        Returns:
            The functions, by piece and feature, for each that is proven in this way. Those with evidence in themselves
            (`local`) are left out.
        """
        if len(wanted) > PIECES:
            return {}
        self._look(set(wanted), pool)
        open_ = [(p, feature) for p, names in wanted.items() for feature in sorted(names) if not self.local(p, feature)]
        found: dict[tuple[int, str], list[int]] = {}
        for _ in range(ROUNDS):
            self._look(self._missing, pool)
            self._missing = set()
            for piece, feature in open_:
                if doors := self._doors(piece, feature):
                    found[piece, feature] = sorted(doors)
            open_ = [key for key in open_ if key not in found]
            if not self._missing or not self.asking or len(self._around) + len(self._missing) > PIECES:
                break
        return found

    def local(self, piece: int, feature: str) -> str:
        """Return the evidence that is within a piece that was looked at; empty without any."""
        code = self._body(piece) if feature in TESTED else None
        if code is None:
            return ""
        loose = self._code.starts[piece] not in self._code.plain
        return local_evidence(code, feature, self._around[piece].entries, loose=loose)

    def _doors(self, piece: int, feature: str) -> set[int]:
        """Return the functions by which alone a piece is reached; empty if they are not known, or if none asks the CPU.

        Those that lead there on each CPU are looked at in the same way.
        """
        led = {piece}
        doors: set[int] = set()
        while True:
            if any(index in self._around and not self._closed(index) for index in led):
                return set()
            missing = led - self._around.keys()
            sources = {s for index in led - missing for s in self._around[index].sources} - led
            missing |= sources - self._around.keys()
            if missing or len(led) > LEVELS:
                self._missing |= missing
                return set()
            ranges = [(self._around[index].low, self._around[index].high) for index in led]
            to = {source: self._leads_to(source, feature) for source in sources}
            if None in to.values():
                return set()
            open_ = {s for s, held in to.items() if any(low <= a < high for a in held or () for low, high in ranges)}
            if not open_:
                doors = sources
                break
            led |= open_
        return doors if not self.asking.isdisjoint(doors) else set()

    def _closed(self, piece: int) -> bool:
        """Return whether all is known that may lead to a piece."""
        around = self._around[piece]
        return bool(around.sources) and not around.pointed

    def _look(self, pieces: Set[int], pool: WorkerPool) -> None:
        """Look for what refers to some pieces."""
        if not pieces:
            return
        code = self._code
        out = {piece: _References(self._low(piece), code.ends[piece]) for piece in pieces}
        order = sorted(out, key=lambda piece: out[piece].low)
        ranges = tuple((out[piece].low, out[piece].high) for piece in order)
        lows = [low for low, _ in ranges]
        near = {index for low, high in ranges for index in self._between(low - SHORT, high + SHORT)}
        quick = self._size >= QUICK_BYTES
        sought = Sought(ranges, self._layout.type == ET_EXEC, tuple(sorted(near)), quick)
        pointing = pool.begin(leads.words_of, str(self._path), ranges)
        through: dict[int, bool] = {}
        for part in pool.each(references_to, chunks(self._path, code), sought):
            for index, addresses, on, _ in part:
                through[index] = on
                for address in addresses:
                    target = order[bisect_right(lows, address) - 1]
                    if target != index:
                        out[target].sources.add(index)
                        out[target].entries.add(address)
        for held in out.values():
            before = code.at(held.low - 1)
            if before != NOWHERE and through.get(before, True):
                held.sources.add(before)
        for address in chain(self._pointers(ranges), pointing()):
            held = out[order[bisect_right(lows, address) - 1]]
            held.pointed = True
            held.entries.add(address)
        for piece, held in out.items():
            held.entries = {address for address in held.entries if address > code.starts[piece]}
        self._around |= out

    def _low(self, piece: int) -> int:
        """Return the address at which the padding before a piece begins."""
        from iced_x86 import Decoder, Mnemonic  # noqa: PLC0415

        code, idle = self._code, {int(Mnemonic.NOP), int(Mnemonic.INT3)}
        at = code.starts[piece]
        while (before := code.at(at - 1)) != NOWHERE and at - code.starts[before] <= PADDED:
            place = code.offsets[before]
            raw = bytes(self._data[place : place + at - code.starts[before]])
            padding = not raw.strip(PADDING) or all(i.mnemonic in idle for i in Decoder(64, raw, ip=0))
            if not padding:
                break
            at = code.starts[before]
        return at

    def _between(self, low: int, high: int) -> range:
        """Return the indexes of the pieces that overlap a range of addresses."""
        first = max(bisect_right(self._code.starts, max(low, 0)) - 1, 0)
        return range(first, bisect_left(self._code.starts, high))

    def _pointers(self, ranges: Ranges) -> Iterator[int]:
        """Yield the addresses in some ranges that relocated pointers have, or that other files may use."""
        yield from (value for value in self.given.given if leads.within(value, ranges))
        yield from leads.those_within(self.given.stored.values, ranges)

    def _body(self, piece: int) -> Body | None:
        """Return the code of a piece that was looked at; None if it is too long, or is not decoded as a whole."""
        code = self._code
        start, end, offset = code.starts[piece], code.ends[piece], code.offsets[piece]
        if piece not in self._bodies:
            raw = bytes(self._data[offset : offset + end - start]) if end - start <= LARGEST else b""
            self._bodies[piece] = body(raw, start, sorted(self._around[piece].entries))
        held = self._bodies[piece]
        return held if held.sound and code.kinds[piece] != GAP else None

    def _leads_to(self, piece: int, feature: str) -> Set[int] | None:
        """Return the addresses to which a function leads on a CPU that lacks a feature; None if that is not known."""
        if (piece, feature) in self._led:
            return self._led[piece, feature]
        code, absent, found = self._body(piece), features.absent_bits(feature), None
        start = self._code.starts[piece]
        if code is not None and absent:
            with suppress(Exhausted):
                found = flow.run(
                    code,
                    _Alone(absent, self._layout.type == ET_EXEC, self._code, self._loaded),
                    entries=tuple(sorted(self._around[piece].entries)),
                    loose=start not in self._code.plain,
                    pair=start not in self.given.resolvers,
                ).references
        self._led[piece, feature] = found
        return found
