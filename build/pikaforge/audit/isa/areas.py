"""Judge executable bytes that may be data: what claims to be no code, and gaps in which bytes are no instruction.

Instructions there count as code

- where certain code leads: the entry, exports, functions by symbols and the unwind table, targets of direct jumps and
  calls, and what runs on into the bytes;
- where a run of them is much likelier in code than in data (`likelihood`). Runs are looked for from the start on,
  behind each byte that is no instruction, from each address that is a multiple of 16, and from each one that code or a
  pointer in data names. For these, and behind padding, less likelihood is enough, because they are few.

Where something claims that bytes are data, runs are looked for only around places at which an instruction could begin
that not every x86-64 CPU has, at whatever byte (`candidates`). Data have few of these: 1 in 20 KB in LLVM's tables.

What is left is data. The evidence is that something claims it, or that it holds bytes which are no instruction, and in
both cases that nothing leads there and no run in it is likely.
"""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import ceil, log2
from pathlib import Path
from typing import TYPE_CHECKING

from pikaforge.audit.elf.executable import PADDING
from pikaforge.audit.elf.layout import mapped
from pikaforge.audit.isa.area_facts import AreaGiven, Judged
from pikaforge.audit.isa.candidates import windows
from pikaforge.audit.isa.likelihood import FAR, HUGE, INSIDE, OUTSIDE, RARE, REFERRED, weights
from pikaforge.audit.isa.opcodes import LONGEST, Tables, calls, could_be_newer, flows, tables
from pikaforge.audit.isa.piece_scan import hits_of
from pikaforge.audit.isa.ranges import GAP
from pikaforge.audit.isa.worker_pool import Chunk

if TYPE_CHECKING:
    from iced_x86 import Decoder, Instruction

UNDECODABLE = "bytes that are no instruction"
"""Evidence for data in a gap."""
ALIGNED, PADDED = 16, 8
"""Bytes to which compilers align functions, mostly, and at least where padding precedes."""
HEAD = 16
"""Bytes at the start of a run that may be taken for instructions wrongly."""
ONES = b"\1" * LONGEST
BEYOND = 4 << 10
"""Bytes behind an area that are read, so that a run is seen to its end."""
GIVE_UP = -4
"""The sum of weights at which a run from a given start is given up."""
GAP_NEEDED = 5
"""The sum of weights from which on the start of a gap is code: gaps mostly are."""
MET = 16
"""Instructions of other runs that a run may have: so the work is linear in bytes."""
DROP = 12
"""How far the sum of a likely run may fall below what it was before the run ends."""
NEAR, NEAR_NEEDED = 64, 12
"""Bytes behind a likely run in which another one is expected, and the sum of weights from which on that is code."""
SHORT_BRANCH = 3
"""Bytes of the longest branch to a near target, with a prefix."""
TEXT = b"\0\t\n\r" + bytes(range(0x20, 0x7F))
"""Bytes of text. An instruction of them is no sign of code where something claims that bytes are data: there names and
messages are likelier. Code needs others: those with two registers, calls, jumps and returns are no text."""
ZEROS = -6
"""The weight of two zeros, which are an instruction."""


def judge_areas(chunk: Chunk, given: AreaGiven) -> list[Judged]:
    """Judge a run of areas. A piece of the kind `GAP` is a gap between functions, and not by a claim."""
    known = tables(given.allowed)
    out = []
    with mapped(Path(chunk.path)) as data:
        for number, (start, end, offset, kind) in enumerate(
            zip(chunk.starts, chunk.ends, chunk.offsets, chunk.kinds, strict=True), chunk.first
        ):
            raw = data[offset : offset + end - start + BEYOND]
            out.append(_Area(raw, start, end, given, known, gap=kind == GAP).judged(number))
    return out


@dataclass(slots=True)
class _LikelyRun:
    """A run of instructions that is looked at."""

    score: int = 0
    """The sum of the weights."""
    best: int = 0
    """The highest sum, once the run is likely."""
    sure: bool = False
    """Whether it is likely."""
    open: list[Instruction] = field(default_factory=list)
    """Instructions behind the place up to which it is."""


class _Area:
    """One area, while it is judged."""

    def __init__(self, raw: bytes, start: int, end: int, given: AreaGiven, known: Tables, *, gap: bool) -> None:
        from iced_x86 import Code, Decoder, DecoderError, Register  # noqa: PLC0415

        self._raw, self._start, self._end = raw, start, end
        self._decoding = Decoder(64, raw, ip=start)
        self._given, self._known, self._gap = given, known, gap
        self._size = end - start
        self._marks = bytearray(len(raw))  # 1: code
        self._starts = bytearray(len(raw) + LONGEST)  # 1: an instruction that is taken for code begins here
        self._certain = bytearray(len(raw) + LONGEST)  # 1: one that certain code leads to
        self._walked = bytearray(len(raw) + LONGEST)  # 1: one of a run from a given start, likely or not
        self._bad: list[int] = []  # offsets of bytes that are no instruction
        self._hits: dict[int, Instruction] = {}
        self._suspects: dict[int, Instruction] = {}
        self._codes: set[int] = set()
        self._outward: set[int] = set()
        self._taken: set[int] = set()
        self._rip = int(Register.RIP)
        self._waiting: list[int] = []  # offsets to which likely runs jump
        self._heads = bytearray(len(raw) + LONGEST)  # 1: a likely run of the sweep begins here
        self._preferred = bytearray(len(raw) + LONGEST)  # 1: an instruction of a likely run from a given start
        self._given_starts = False
        self._ending, self._calls, self._cut = flows(), calls(), int(DecoderError.NO_MORE_BYTES)
        self._weights = weights()
        self._trap = int(Code.INT3)

    def judged(self, number: int) -> Judged:
        """Judge it."""
        waiting = list(self._inside(self._given.certain))
        behind_calls = self._follow(waiting)
        self._follow(behind_calls, doubted=True)
        if self._gap:
            first = self._size - len(self._raw[: self._size].lstrip(PADDING))
            self._run(first, GAP_NEEDED, through=True)
        formed = any(low <= self._start and self._end <= high for low, high in self._given.formed)
        found = [] if formed or self._gap else windows(self._raw, self._known.allowed, self._size)
        ranges = [(0, self._size)] if self._gap else found
        done = 0
        for low, high in ranges:
            done = self._sweep(max(low, done), high)
        self._given_starts = True
        for at in self._inside(self._given.referred):
            self._run(at - self._start, self._given.referred_needed)
        for place in self._waiting:
            if not self._marks[place]:
                self._run(place, self._given.referred_needed)
        self._padded(ranges)
        for place in self._multiples(ALIGNED, ranges):
            if not self._marks[place]:
                self._run(place, self._given.needed)
        return self._result(number)

    def _multiples(self, step: int, ranges: list[tuple[int, int]]) -> Iterator[int]:
        """Yield the offsets in some ranges whose addresses are multiples of `step`."""
        for low, high in ranges:
            yield from range(low + -(self._start + low) % step, high, step)

    def _padded(self, ranges: list[tuple[int, int]]) -> None:
        """Look for runs behind padding, outside of likely ones. The more there are, the likelier further ones are.

        What precedes a function may be taken for the first instructions of a run that goes on with the function.
        """
        raw, marks = self._raw, self._marks
        places = [
            place
            for place in self._multiples(PADDED, ranges)
            if place and raw[place - 1] in PADDING and raw[place] not in PADDING
            if not marks[place] or self._heads.find(1, max(place - HEAD, 0), place) >= 0
        ]
        needed = min(REFERRED + ceil(log2(max(len(places), 1))), self._given.needed)
        begun = sum(self._run(place, needed) for place in places)
        if begun > 1:
            self._walked = bytearray(len(self._walked))
            for place in places:
                if not self._starts[place]:
                    self._run(place, REFERRED + ceil(log2(len(places) / begun)))

    def _inside(self, addresses: array[int]) -> array[int]:
        return addresses[bisect_left(addresses, self._start) : bisect_left(addresses, self._end)]

    def _decoder(self, place: int) -> Decoder:
        """Return the decoder, which goes on at an offset: only one place is decoded at a time."""
        decoder = self._decoding
        decoder.position, decoder.ip = place, self._start + place
        return decoder

    def _follow(self, waiting: list[int], *, doubted: bool = False) -> list[int]:
        """Take what is run from some addresses on for code, and what it jumps to in the area.

        What no decoder knows is no data there, if a newer CPU may know it.

        Args:
            waiting: the addresses.
            doubted: whether they are behind calls, which may not return; if not, what is behind calls is returned.
        """
        behind: list[int] = []
        while waiting:
            at = waiting.pop() - self._start
            if self._certain[at]:
                continue
            decoder = self._decoder(at)
            for instruction in decoder:
                place = instruction.ip - self._start
                if place >= self._size:
                    self._outward.add(instruction.ip)
                    break
                if self._certain[place]:
                    break
                if instruction.code == 0:
                    if decoder.last_error != self._cut and could_be_newer(self._raw[place : place + LONGEST]):
                        self._unknown(instruction, place, doubted=doubted)
                    break
                self._certain[place] = 1
                target = self._take(instruction, place)
                if target:
                    waiting.append(target)
                if instruction.flow_control in self._ending:
                    break
                if instruction.flow_control in self._calls:
                    (waiting if doubted else behind).append(instruction.next_ip)
                    break
        return behind

    def _unknown(self, instruction: Instruction, place: int, *, doubted: bool) -> None:
        """Keep in mind bytes that the decoder does not know where code leads to."""
        if doubted:
            self._suspects[instruction.ip] = instruction
        else:
            self._certain[place] = 1
            self._hits[instruction.ip] = instruction

    def _take(self, instruction: Instruction, place: int) -> int:
        """Take an instruction for code; return the target of a jump in the area, else 0."""
        length = instruction.len
        self._marks[place : place + length] = ONES[:length]
        if place >= self._size:
            return 0
        self._starts[place] = 1
        if instruction.code in self._known.bad:
            self._hits[instruction.ip] = instruction
        else:
            self._codes.add(instruction.code)
        if instruction.memory_base == self._rip:
            self._taken.add(instruction.memory_displacement)
        target = instruction.near_branch_target
        if target and not self._start <= target < self._end:
            self._outward.add(target)
            return 0
        return target

    def _weight(self, instruction: Instruction, before: Instruction | None) -> int:
        """Return the weight of an instruction with its operands."""
        weight = self._weights[instruction.code]
        at = instruction.ip - self._start
        if not self._gap and not self._raw[at : at + instruction.len].translate(None, TEXT):
            return min(weight, 0)
        target = instruction.near_branch_target
        if target:
            far = INSIDE if instruction.len > SHORT_BRANCH else 0
            return weight + far if _held(target, self._given.running) else OUTSIDE
        if instruction.code == self._trap and before is not None:
            return 0 if before.code == self._trap or before.flow_control in self._ending else RARE
        place = instruction.ip - self._start
        if self._raw[place : place + 2] == b"\0\0":
            return ZEROS
        return weight + self._weight_of_memory(instruction) if instruction.memory_displ_size >= 4 else weight

    def _weight_of_memory(self, instruction: Instruction) -> int:
        """Return the weight of a displacement of 32 bits."""
        at = instruction.memory_displacement
        if instruction.is_ip_rel_memory_operand:
            return INSIDE if _held(at, self._given.loaded) else OUTSIDE
        return HUGE if FAR < at < (1 << 64) - FAR else 0

    def _sweep(self, place: int, end: int) -> int:
        """Go over some bytes, and take likely runs for code; return where that ends. A run begins anywhere."""
        run, before = _LikelyRun(), None
        last = place - NEAR - 1  # the end of the last likely run
        decoder = self._decoder(place)
        while place < end or (run.sure and place < len(self._raw)):
            instruction = decoder.decode()
            # Where an instruction has been taken for code, another one does not reach into it.
            known = self._starts.find(1, place + 1, place + instruction.len)
            if instruction.code == 0 or known >= 0:
                if place >= self._size:
                    break
                self._bad.append(place)
                self._suspect(run.open)
                run, before = _LikelyRun(), None
                place = known if known >= 0 else place + 1
                decoder.position, decoder.ip = place, self._start + place
                continue
            if self._gap and instruction.code not in self._known.bad:
                self._codes.add(instruction.code)
            needed = min(NEAR_NEEDED, self._given.needed) if place - last < NEAR else self._given.needed
            if self._likely(run, instruction, self._weight(instruction, before), needed):
                last = place + instruction.len
            elif run.score <= 0 or run.score < run.best - DROP:
                self._suspect(run.open)
                run = _LikelyRun()
            before = instruction
            place += instruction.len
        self._suspect(run.open)
        return place

    def _likely(self, run: _LikelyRun, instruction: Instruction, weight: int, needed: int) -> bool:
        """Add an instruction to a run; return whether all of the run is likely, which is taken for code then."""
        run.open.append(instruction)
        run.score += weight
        if run.score < (run.best if run.sure else needed):
            return False
        if not run.sure and not self._given_starts:
            self._heads[run.open[0].ip - self._start] = 1
        for one in run.open:
            place = one.ip - self._start
            target = self._take(one, place)
            if target:
                self._waiting.append(target - self._start)
            if self._given_starts:
                self._preferred[place] = 1
        run.open, run.best, run.sure = [], run.score, True
        return True

    def _suspect(self, instructions: Iterable[Instruction]) -> None:
        """Keep in mind what is beyond the target in a run that is not likely."""
        if self._gap:
            self._suspects.update((i.ip, i) for i in instructions if i.code in self._known.bad)

    def _run(self, place: int, needed: int, *, through: bool = False) -> bool:
        """Take a run from one place on for code if it is likely; `through` goes on behind what ends a function."""
        run, met = _LikelyRun(), 0
        before: Instruction | None = None
        for instruction in self._decoder(place):
            at = instruction.ip - self._start
            met += self._walked[at]
            if instruction.code == 0 or met > MET:
                break
            self._walked[at] = 1
            self._likely(run, instruction, self._weight(instruction, before), needed)
            if run.score < (run.best - DROP if run.sure else GIVE_UP):
                break
            if instruction.flow_control in self._ending and not through:
                break
            before = instruction
        return run.sure

    def _result(self, number: int) -> Judged:
        raw, allowed = self._raw, self._known.allowed
        moved: dict[int, Instruction] = {}  # a likely run from a given start begins within them
        for ip, one in list(self._hits.items()):
            place = ip - self._start
            if not self._certain[place] and self._preferred.find(1, place + 1, place + one.len) >= 0:
                moved[ip] = self._hits.pop(ip)
        hits = hits_of(list(self._hits.values()), raw, self._start, allowed)
        doubted = [i for ip, i in self._suspects.items() if ip not in self._hits and not self._marks[ip - self._start]]
        doubted += moved.values()
        out = Judged(
            number=number,
            hits=(*hits, *hits_of(doubted, raw, self._start, allowed, suspect=True)),
            codes=self._codes,
            decoded=self._size - self._marks.count(0, 0, self._size),
            outward=array("Q", sorted(self._outward)),
            taken=array("Q", sorted(self._taken)),
            begun=zlib.compress(self._starts[: self._size], 1),
        )
        if self._gap:
            places = sorted(i.ip - self._start for i in doubted)
            for low, high in self._unmarked():
                if _any(self._bad, low, high):
                    out.data[UNDECODABLE] += high - low
                elif _any(places, low, high):
                    out.unclassified += high - low
                else:
                    out.decoded += high - low
        return out

    def _unmarked(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges of offsets that are not taken for code."""
        marks = self._marks[: self._size]
        low = marks.find(b"\0")
        while low >= 0:
            high = marks.find(b"\1", low)
            high = high if high >= 0 else self._size
            yield low, high
            low = marks.find(b"\0", high) if high < self._size else -1


def _held(address: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(low <= address < high for low, high in ranges)


def _any(places: list[int], low: int, high: int) -> bool:
    at = bisect_left(places, low)
    return at < len(places) and places[at] < high


def is_padding(raw: bytes) -> bool:
    """Return whether bytes only fill a gap."""
    return not raw.strip(PADDING)
