"""Judge executable bytes that may be data: what claims to be no code, and gaps in which bytes are no instruction.

Instructions there count as code

- where certain code leads: the entry, exports, functions by symbols and the unwind table, targets of direct jumps and
  calls, and what runs on into the bytes;
- where a run of them is much likelier in code than in data (`likelihood`). Runs are looked for from the start on,
  behind each byte that is no instruction, from each address that is a multiple of 16, and from each one that code or a
  pointer in data names. For these, and behind padding, less likelihood is enough, because they are few.

What is left is data. The evidence is that something claims it, or that it holds bytes which are no instruction, and in
both cases that nothing leads there and no run in it is likely.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import ceil, log2
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pikaforge.audit.elf.executable import PADDING
from pikaforge.audit.elf.layout import mapped
from pikaforge.audit.isa.likelihood import FAR, HUGE, INSIDE, OUTSIDE, RARE, REFERRED, weights
from pikaforge.audit.isa.opcodes import Tables, tables
from pikaforge.audit.isa.piece_scan import LONGEST, FeatureHit, flows, hits_of
from pikaforge.audit.isa.ranges import GAP
from pikaforge.audit.isa.worker_pool import Chunk

if TYPE_CHECKING:
    from iced_x86 import Decoder, Instruction

UNDECODABLE = "bytes that are no instruction"
"""Evidence for data in a gap."""
ALIGNED = 16
"""Bytes to which compilers align functions."""
BEYOND = 4 << 10
"""Bytes behind an area that are read, so that a run is seen to its end."""
GIVE_UP = -4
"""The sum of weights at which a run from a given start is given up."""
GAP_NEEDED = 5
"""The sum of weights from which on the start of a gap is code: gaps mostly are."""
MET = 16
"""Instructions of other runs that a run may have: so the work is linear in bytes."""
KEEP = 24
"""What a sum may have above the threshold: so much must speak against code before a run ends."""
SHORT_BRANCH = 3
"""Bytes of the longest branch to a near target, with a prefix."""
ZEROS = -6
"""The weight of two zeros, which are an instruction."""


class AreaGiven(NamedTuple):
    """What the judgement of areas needs beside them."""

    allowed: frozenset[str]
    certain: array[int]
    """Addresses at which certain code begins, ascending."""
    referred: array[int]
    """Addresses that code or pointers name, ascending."""
    needed: int
    """The sum of weights from which on a run is code."""
    referred_needed: int
    """The same for a run from an address that is referred to."""
    running: tuple[tuple[int, int], ...]
    """Ranges of addresses that may be executed."""
    loaded: tuple[tuple[int, int], ...]
    """Ranges of addresses that the file has."""


@dataclass(slots=True)
class Judged:
    """The result for one area."""

    number: int
    """Its number among the areas of the file."""
    hits: tuple[FeatureHit, ...] = ()
    codes: set[int] = field(default_factory=set)
    """Opcodes that are allowed."""
    decoded: int = 0
    """Bytes of code."""
    data: Counter[str] = field(default_factory=Counter)
    """Bytes of data by evidence; empty for what claims to be data: the claim is the evidence."""
    unclassified: int = 0
    """Bytes of neither."""
    outward: array[int] = field(default_factory=lambda: array("Q"))
    """Addresses outside of the area to which its code leads."""


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


def harmless(raw: bytes, allowed: frozenset[str]) -> bool:
    """Return whether no instruction that is not allowed begins at any byte."""
    from iced_x86 import Decoder  # noqa: PLC0415

    bad = tables(allowed).bad - {0}
    return not any(Decoder(64, raw[at : at + LONGEST]).decode().code in bad for at in range(len(raw)))


class _Area:
    """One area, while it is judged."""

    def __init__(self, raw: bytes, start: int, end: int, given: AreaGiven, known: Tables, *, gap: bool) -> None:
        from iced_x86 import Code  # noqa: PLC0415

        self._raw, self._start, self._end = raw, start, end
        self._given, self._known, self._gap = given, known, gap
        self._size = end - start
        self._marks = bytearray(len(raw))  # 1: code
        self._begun = bytearray(len(raw) + LONGEST)  # 1: an instruction of the first sweep begins here
        self._walked = bytearray(len(raw) + LONGEST)  # 1: an instruction of a run from a given start begins here
        self._bad: list[int] = []  # offsets of bytes that are no instruction
        self._hits: dict[int, Instruction] = {}
        self._suspects: dict[int, Instruction] = {}
        self._codes: set[int] = set()
        self._outward: set[int] = set()
        self._ending = flows()
        self._weights = weights()
        self._trap = int(Code.INT3)

    def judged(self, number: int) -> Judged:
        """Judge it."""
        waiting = list(self._inside(self._given.certain))
        while waiting:
            self._certain(waiting.pop(), waiting)
        if self._gap:
            first = self._size - len(self._raw[: self._size].lstrip(PADDING))
            self._run(first, GAP_NEEDED, through=True)
        self._sweep()
        for at in self._inside(self._given.referred):
            self._run(at - self._start, self._given.referred_needed)
        aligned = [p for p in range(-self._start % ALIGNED, self._size, ALIGNED) if not self._begun[p]]
        padded = {p for p in aligned if p and self._raw[p - 1] in PADDING and self._raw[p] not in PADDING}
        padded_needed = min(REFERRED + ceil(log2(max(len(padded), 1))), self._given.needed)
        for place in aligned:
            self._run(place, padded_needed if place in padded else self._given.needed)
        return self._result(number)

    def _inside(self, addresses: array[int]) -> array[int]:
        return addresses[bisect_left(addresses, self._start) : bisect_left(addresses, self._end)]

    def _decoder(self, place: int) -> Decoder:
        from iced_x86 import Decoder  # noqa: PLC0415

        decoder = Decoder(64, self._raw, ip=self._start)
        decoder.position, decoder.ip = place, self._start + place
        return decoder

    def _certain(self, at: int, waiting: list[int]) -> None:
        """Take what is run from an address on for code."""
        for instruction in self._decoder(at - self._start):
            place = instruction.ip - self._start
            if place >= self._size:
                self._outward.add(instruction.ip)
                return
            if instruction.code == 0 or self._marks[place] == 2:
                return
            self._take(instruction, waiting)
            self._marks[place] = 2
            if instruction.flow_control in self._ending:
                return

    def _take(self, instruction: Instruction, waiting: list[int] | None = None) -> None:
        """Take an instruction for code."""
        place = instruction.ip - self._start
        for at in range(place, min(place + instruction.len, len(self._marks))):
            self._marks[at] = self._marks[at] or 1
        if place >= self._size:
            return
        if instruction.code in self._known.bad:
            self._hits[instruction.ip] = instruction
        else:
            self._codes.add(instruction.code)
        target = instruction.near_branch_target
        if self._start <= target < self._end:
            if waiting is not None and self._marks[target - self._start] != 2:
                waiting.append(target)
        elif target:
            self._outward.add(target)

    def _weight(self, instruction: Instruction, before: Instruction | None) -> int:
        """Return the weight of an instruction with its operands."""
        weight = self._weights[instruction.code]
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

    def _sweep(self) -> None:
        """Go over all bytes, and take likely runs for code. A run begins anywhere."""
        bad, begun = self._known.bad, self._begun
        score, sure, place = 0, False, 0
        run: list[Instruction] = []
        before: Instruction | None = None
        decoder = self._decoder(0)
        while place < self._size or (sure and place < len(self._raw)):
            instruction = decoder.decode()
            if instruction.code == 0:
                if place >= self._size:
                    break
                self._bad.append(place)
                self._drop(run, sure=sure)
                score, run, sure, before = 0, [], False, None
                place += 1
                decoder.position, decoder.ip = place, self._start + place
                continue
            begun[place] = 1
            score = min(score + self._weight(instruction, before), self._given.needed + KEEP)
            run.append(instruction)
            if score <= 0:
                self._drop(run, sure=sure)
                score, run, sure = 0, [], False
            elif sure or score >= self._given.needed:
                for one in run:
                    self._take(one)
                run, sure = [], True
            if self._gap and instruction.code not in bad:
                self._codes.add(instruction.code)
            before = instruction
            place += instruction.len
        self._drop(run, sure=sure)

    def _drop(self, run: Iterable[Instruction], *, sure: bool) -> None:
        """Give a run up: what it has beyond the target is suspect."""
        if self._gap and not sure:
            self._suspects.update((i.ip, i) for i in run if i.code in self._known.bad)

    def _run(self, place: int, needed: int, *, through: bool = False) -> None:
        """Take a run from one place on for code if it is likely; `through` goes on behind what ends a function."""
        score = met = 0
        run: list[Instruction] = []
        before: Instruction | None = None
        for instruction in self._decoder(place):
            at = instruction.ip - self._start
            met += self._begun[at] or self._walked[at]
            if instruction.code == 0 or met > MET:
                return
            self._walked[at] = 1
            score += self._weight(instruction, before)
            run.append(instruction)
            if score < GIVE_UP:
                return
            if score >= needed:
                for one in run:
                    self._take(one)
                run, score = [], needed
            if instruction.flow_control in self._ending and not through:
                return
            before = instruction

    def _result(self, number: int) -> Judged:
        raw, allowed = self._raw, self._known.allowed
        hits = hits_of(list(self._hits.values()), raw, self._start, allowed)
        doubted = [i for ip, i in self._suspects.items() if ip not in self._hits and not self._marks[ip - self._start]]
        out = Judged(
            number=number,
            hits=(*hits, *hits_of(doubted, raw, self._start, allowed, suspect=True)),
            codes=self._codes,
            decoded=self._size - self._marks.count(0, 0, self._size),
            outward=array("Q", sorted(self._outward)),
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
        marks = bytes(self._marks[: self._size]).replace(b"\2", b"\1")
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
