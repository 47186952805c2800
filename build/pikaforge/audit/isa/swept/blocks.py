"""Blocks of a chunk's pieces: the starts of their instructions, and what is known of these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from pikaforge.audit.elf.executable import PADDING
from pikaforge.audit.elf.layout import Buffer
from pikaforge.audit.isa.opcodes import is_near_branch, tables
from pikaforge.audit.isa.ranges import GAP, LAST, NOWHERE, PIECE_LIMIT, TABLE
from pikaforge.audit.isa.swept.kinds import DETECTING, INVALID, NEAR8, NEAR32, ODD, Kinds, Swept
from pikaforge.audit.isa.swept.lengths import SLACK, lengths, words
from pikaforge.audit.isa.swept.walks import jumps, starts
from pikaforge.audit.isa.worker_pool import Chunk

if TYPE_CHECKING:
    from iced_x86 import Decoder, Instruction
    from numpy.typing import NDArray

    from pikaforge.audit.isa.swept.lengths import Bytes, Places, Words

BLOCK = 256 << 10
"""Bytes of a block, about. Each takes a millisecond for the calls of numpy, and memory for 60 times its bytes."""


@lru_cache(maxsize=4)
def kinds_for(allowed: frozenset[str]) -> Kinds:
    """Return what this process knows of instructions, for a set of allowed features."""
    return Kinds(allowed)


@dataclass(slots=True, kw_only=True)
class CodeBlock:
    """Some pieces of a chunk that lie behind each other in the file, but for tables and what is only padding."""

    base: int
    """The address of its first byte."""
    pieces: NDArray[np.intp]
    """The indexes of its pieces."""
    begin: Places
    """Where they begin: the offset of the first instruction."""
    end: Places
    raw: Bytes
    words: Words
    lengths: Bytes
    begun: NDArray[np.bool_]
    """Whether an instruction begins at an offset."""
    swept: Swept
    """Its instructions."""
    owner: Places
    """The place in `pieces` of the piece of each instruction."""
    odd: list[tuple[int, Instruction]] = field(default_factory=list)
    """The instructions that are odd, each with its place in `swept`."""
    unfit: NDArray[np.bool_]
    """Whether a piece must be decoded one by one: it has what is no instruction, or is cut off, or is otherwise odd."""
    kinds: Kinds
    decoder: Decoder
    """A decoder of its bytes."""

    def having(self, flag: int) -> Places:
        """Return the places in `swept` of the instructions with a flag."""
        return np.flatnonzero(self.swept.flags & flag)

    def decoded(self, place: int) -> Instruction:
        """Return the instruction at an offset."""
        self.decoder.position, self.decoder.ip = place, self.base + place
        return self.decoder.decode()

    def detecting(self) -> Places:
        """Return the places in `swept` of the instructions that ask the CPU for its features."""
        return self.having(DETECTING)

    def targets(self) -> tuple[Places, NDArray[np.int64]]:
        """Return the places in `swept` of direct branches that are not odd, and the offsets to which they lead."""
        near, far = self.having(NEAR8), self.having(NEAR32)
        places = self.swept.places
        behind = places[near] + self.lengths[places[near]]
        close = behind + self.raw[behind - 1].view(np.int8)
        behind = places[far] + self.lengths[places[far]]
        distance = self.words[behind - 4] | self.words[behind - 2].astype(np.uint32) << 16
        return np.concatenate((near, far)), np.concatenate((close, behind + distance.view(np.int32)))


@dataclass(slots=True)
class _Carry:
    """How the gap at the end of a block goes on in the next one."""

    piece: int = NOWHERE
    """The index of its last piece."""
    after: int = 0
    """The address behind its last instruction."""
    broken: bool = False
    """Whether that is not known."""


class _Pieces:
    """The pieces of a chunk, as arrays."""

    def __init__(self, chunk: Chunk, data: Buffer) -> None:
        self.first = chunk.first
        self.starts, self.ends, self.offsets = (
            np.frombuffer(held, np.uint64) for held in (chunk.starts, chunk.ends, chunk.offsets)
        )
        kinds = np.frombuffer(chunk.kinds, np.uint8)
        self.on = np.zeros(len(kinds) + 1, bool)
        """Whether a piece goes on with the one before."""
        self.on[[index - chunk.first for index in chunk.cuts]] = True
        sizes = self.ends - self.starts
        self.live = (kinds != TABLE) & (sizes <= PIECE_LIMIT)
        shifts = self.starts - self.offsets
        self.breaks = np.append(np.flatnonzero(shifts[1:] != shifts[:-1]) + 1, len(kinds))
        """Where pieces are not behind each other as in the file."""
        for number in np.flatnonzero(self.live & (kinds == GAP)).tolist():
            at = int(self.offsets[number])
            if data[at] in PADDING and not data[at : at + int(sizes[number])].strip(PADDING):
                self.live[number] = False


def blocks(chunk: Chunk, data: Buffer, allowed: frozenset[str]) -> Iterator[CodeBlock]:
    """Yield the blocks of a chunk. Pieces longer than `PIECE_LIMIT` are in none; see `apart`."""
    pieces = _Pieces(chunk, data)
    carry = _Carry()
    first, count = 0, len(chunk.starts)
    while first < count:
        limit = np.uint64(min(int(pieces.starts[first]) + BLOCK, LAST))
        last = int(pieces.ends.searchsorted(limit, side="right"))
        last = max(min(last, int(pieces.breaks[pieces.breaks.searchsorted(first, side="right")])), first + 1)
        live = np.flatnonzero(pieces.live[first:last]) + first
        if len(live):
            yield _block(pieces, data, live, allowed, carry)
        first = last


def apart(chunk: Chunk) -> frozenset[int]:
    """Return the indexes of the pieces that are too long for a block."""
    pairs = zip(chunk.starts, chunk.ends, strict=True)
    return frozenset(n for n, (start, end) in enumerate(pairs, chunk.first) if end - start > PIECE_LIMIT)


def _block(pieces: _Pieces, data: Buffer, live: Places, allowed: frozenset[str], carry: _Carry) -> CodeBlock:
    from iced_x86 import Decoder  # noqa: PLC0415

    base, offset = int(pieces.starts[live[0]]), int(pieces.offsets[live[0]])
    size = int(pieces.ends[live[-1]]) - base
    held = data[offset : offset + size + SLACK]
    held += bytes(size + SLACK - len(held))
    raw = np.frombuffer(held, np.uint8)
    both = words(raw)
    found = lengths(raw, both)
    begin, end = ((borders[live] - pieces.starts[live[0]]).astype(np.intp) for borders in (pieces.starts, pieces.ends))
    goes_on, continues = pieces.on[live + 1], pieces.on[live]
    led = bool(continues[0]) and carry.piece == pieces.first + int(live[0]) - 1
    continues[1:] &= np.diff(live) == 1
    continues[0] = False
    if led:
        begin[0] = min(max(carry.after - base, 0), size)
    fresh = ~continues
    over = jumps(found, np.concatenate((begin[fresh], end[~goes_on])))
    begun = starts(over, begin[fresh], _ends(end, continues))[:-1]
    begun &= _covered(begin, end, size)
    places = np.flatnonzero(begun)
    decoder = Decoder(64, held, ip=base)
    kinds = kinds_for(allowed)
    swept = kinds.look(raw, both, found, places, decoder)
    bounds = np.searchsorted(places, end)
    block = CodeBlock(
        base=base,
        pieces=live + pieces.first,
        begin=begin,
        end=end,
        raw=raw,
        words=both,
        lengths=found,
        begun=begun,
        swept=swept,
        owner=np.repeat(np.arange(len(live)), np.diff(bounds, prepend=0)),
        unfit=np.zeros(len(live), bool),
        kinds=kinds,
        decoder=decoder,
    )
    _begin_behind(block, continues, bounds)
    broken = _examine(block, allowed)
    block.unfit |= _cut_off(block, bounds, goes_on)
    if led and (carry.broken or carry.after > base + size):
        broken[0] = block.unfit[0] = True
    _pass_on(block, continues, broken)
    carry.piece, carry.broken = int(block.pieces[-1]), bool(broken[-1])
    carry.after = base + int(places[-1] + found[places[-1]]) if len(places) else base + size
    return block


def _ends(end: Places, continues: NDArray[np.bool_]) -> Places:
    """Return the ends of pieces with those that go on with them."""
    last = np.append(~continues[1:], True)
    ends: Places = end[last]
    return ends


def _covered(begin: Places, end: Places, size: int) -> NDArray[np.bool_]:
    """Return whether a piece covers each offset."""
    borders = np.stack((np.minimum(begin, end), end), axis=1).ravel()
    sizes = np.diff(borders, prepend=0)
    held = np.zeros(len(sizes), bool)
    held[1::2] = True
    return np.repeat(held, sizes)[:size]


def _begin_behind(block: CodeBlock, continues: NDArray[np.bool_], bounds: Places) -> None:
    """Set where pieces begin that go on with the one before: an instruction of that may go over the cut."""
    for number in np.flatnonzero(continues).tolist():
        if bounds[number - 1]:
            before = block.swept.places[bounds[number - 1] - 1]
            block.begin[number] = max(int(block.begin[number]), int(before + block.lengths[before]))


def _examine(block: CodeBlock, allowed: frozenset[str]) -> NDArray[np.bool_]:
    """Decode what is odd, and mark the pieces that are unfit; return those in which a length is not known."""
    known = tables(allowed)
    broken = np.zeros(len(block.unfit), bool)
    places, flags = block.swept.places, block.swept.flags
    broken[block.owner[np.flatnonzero(flags & INVALID)]] = True
    for number in np.flatnonzero(flags & ODD).tolist():
        at, owner = int(places[number]), int(block.owner[number])
        one = block.decoded(at)
        if one.code == 0 or one.len != block.lengths[at]:
            broken[owner] = True
        elif one.code in known.bad or one.code in known.detecting or is_near_branch(one):
            block.unfit[owner] = True
        else:
            block.odd.append((number, one))
    block.unfit |= broken
    return broken


def _cut_off(block: CodeBlock, bounds: Places, goes_on: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return whether the last instruction of a piece goes on behind the piece's end, where no cut is."""
    if not len(block.swept.places):
        return ~goes_on
    last = block.swept.places[np.maximum(bounds - 1, 0)]
    return (last + block.lengths[last] > block.end) & ~goes_on


def _pass_on(block: CodeBlock, continues: NDArray[np.bool_], broken: NDArray[np.bool_]) -> None:
    """Mark the pieces that go on with one in which a length is not known."""
    for number in np.flatnonzero(continues).tolist():
        if broken[number - 1]:
            broken[number] = block.unfit[number] = True
