"""The addresses to which instructions of blocks refer: of many pieces at once."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pikaforge.audit.elf.layout import Buffer
from pikaforge.audit.isa.opcodes import features_by_code
from pikaforge.audit.isa.swept.blocks import CodeBlock, apart, blocks
from pikaforge.audit.isa.swept.kinds import IDLE
from pikaforge.audit.isa.worker_pool import Chunk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pikaforge.audit.isa.swept.lengths import Places

WORD = 8
RIP_RELATIVE, RIP_MASK = 0x05, 0xC7
"""ModRM of an operand at a distance from the next instruction (Intel SDM vol. 2A table 2-7)."""
NONE = -1


@lru_cache(maxsize=1)
def every_feature() -> frozenset[str]:
    """Return the ids of all features, so that every instruction is allowed, whatever it needs."""
    return frozenset(name for names in features_by_code()[1:] for name in names)


class Operands(NamedTuple):
    """Which operands in memory name addresses."""

    wide: bool = True
    """Whether each word that a wide operand touches is named, or only the first one."""
    displaced: bool = False
    """Whether a displacement of 32 bits is an address, as in programs with a fixed one."""


ALL_WORDS = Operands()


class Referred(NamedTuple):
    """What pieces that are not only padding refer to."""

    pieces: array[int]
    counts: array[int]
    """The number of addresses of each."""
    addresses: array[int]
    """Those of all pieces."""
    flows: bytes
    """How each ends: iced's FlowControl of its last instruction but for NOP and INT3."""


def referred(
    chunk: Chunk,
    data: Buffer,
    bounds: tuple[tuple[int, int], ...],
    left: set[int],
    operands: Operands = ALL_WORDS,
) -> Referred:
    """Return what the pieces of a chunk refer to.

    Args:
        chunk: the pieces.
        data: the file.
        bounds: ranges of addresses; others are left out.
        left: gets the indexes of the pieces that must be decoded one by one, and are not in the result.
        operands: which operands name addresses.
    """
    left |= apart(chunk)
    out = Referred(array("q"), array("q"), array("Q"), b"")
    flows = bytearray()
    for block in blocks(chunk, data, every_feature()):
        ends = _ends(block)
        owner, addresses = _addresses(block, bounds, operands)
        left.update(block.pieces[block.unfit].tolist())
        fit = (ends != NONE) & ~block.unfit
        out.pieces.frombytes(block.pieces[fit].astype(np.int64).tobytes())
        out.counts.frombytes(np.bincount(owner, minlength=len(fit))[fit].astype(np.int64).tobytes())
        out.addresses.frombytes(addresses[fit[owner]].tobytes())
        flows += ends[fit].astype(np.uint8).tobytes()
    return out._replace(flows=bytes(flows))


def _ends(block: CodeBlock) -> NDArray[np.intp]:
    """Return how each piece ends; -1 if it has no instructions but NOP and INT3. Odd endings make a piece unfit."""
    flows = np.full(len(block.pieces), NONE)
    busy = np.flatnonzero((block.swept.flags & IDLE) == 0)
    owner = block.owner[busy]
    flows[owner] = block.kinds.flows[block.swept.kinds[busy]]  # the last one of a piece is set last
    last = np.full(len(block.pieces), NONE)
    last[owner] = busy
    odd = np.array([number for number, _ in block.odd], np.intp)
    block.unfit[block.owner[odd[last[block.owner[odd]] == odd]]] = True
    return flows


def _addresses(
    block: CodeBlock, bounds: tuple[tuple[int, int], ...], operands: Operands
) -> tuple[NDArray[np.intp], NDArray[np.uint64]]:
    """Return the places of pieces, ascending, each with an address to which it refers."""
    swept, raw = block.swept, block.raw
    branches, targets = block.targets()
    modrm = swept.opcodes + 1
    memory = np.flatnonzero((raw[modrm] & RIP_MASK) == RIP_RELATIVE)
    memory = memory[(swept.kinds[memory] != 0) & block.kinds.with_modrm(swept.kinds[memory])]
    field = modrm[memory] + 1
    distance = (block.words[field] | block.words[field + 2].astype(np.uint32) << np.uint32(16)).view(np.int32)
    behind = swept.places[memory] + block.lengths[swept.places[memory]]
    held, at = [block.owner[branches], block.owner[memory]], [targets, behind + distance]
    # A wide operand touches several words.
    counts = np.maximum((block.kinds.sizes[swept.kinds[memory]].astype(np.intp) + WORD - 1) // WORD, 1)
    for further in range(1, int(counts.max(initial=1)) if operands.wide else 1):
        wide = counts > further
        held.append(held[1][wide])
        at.append(at[1][wide] + further * WORD)
    if operands.displaced:
        some, values = _displacements(block)
        held.append(block.owner[some])
        at.append(values - block.base)
    owner = np.concatenate(held)
    addresses = np.concatenate(at).astype(np.uint64) + np.uint64(block.base)
    more = list(_of_odd(block, operands))
    if more:
        owner = np.append(owner, [number for number, _ in more])
        addresses = np.append(addresses, np.array([address for _, address in more], np.uint64))
    inside = np.zeros(len(addresses), bool)
    for low, high in bounds:
        if low < 1 << 64 and high:
            inside |= (addresses >= np.uint64(low)) & (addresses <= np.uint64(min(high, 1 << 64) - 1))
    inside &= addresses != 0
    owner, addresses = owner[inside], addresses[inside]
    order = np.lexsort((addresses, owner))
    owner, addresses = owner[order], addresses[order]
    new = np.ones(len(owner), bool)
    new[1:] = (owner[1:] != owner[:-1]) | (addresses[1:] != addresses[:-1])
    return owner[new], addresses[new]


def _displacements(block: CodeBlock) -> tuple[Places, NDArray[np.int64]]:
    """Return the places in `swept` of instructions with a displacement of 32 bits, not from RIP, and these.

    ModRM has it with mod 2, and SIB with base 5 and mod 0 (Intel SDM vol. 2A tables 2-2 and 2-3).
    """
    swept, raw = block.swept, block.raw
    some = np.flatnonzero((swept.kinds != 0) & block.kinds.with_modrm(swept.kinds))
    at = swept.opcodes[some] + 1
    modrm, sib = raw[at], raw[at + 1]
    with_sib = modrm & 7 == 4
    far = (modrm >> 6 == 2) | (with_sib & (modrm >> 6 == 0) & (sib & 7 == 5))
    field = (at + 1 + with_sib)[far]
    distance = (block.words[field] | block.words[field + 2].astype(np.uint32) << np.uint32(16)).view(np.int32)
    return some[far], distance.astype(np.int64)


def _of_odd(block: CodeBlock, operands: Operands) -> Iterator[tuple[int, int]]:
    """Yield the places of pieces with instructions that are odd, each with an address that one touches."""
    from iced_x86 import MemorySizeExt, Register  # noqa: PLC0415

    for number, one in block.odd:
        if one.memory_base == Register.RIP:
            start = one.memory_displacement
            size = MemorySizeExt.size(one.memory_size) if operands.wide else 1
            for address in range(start, start + max(size, 1), WORD):
                yield int(block.owner[number]), address % (1 << 64)
        elif operands.displaced:
            yield int(block.owner[number]), one.memory_displacement
