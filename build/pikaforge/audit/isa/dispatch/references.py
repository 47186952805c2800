"""What the code of a file refers to: addresses that pieces jump to, call, take or touch. Worker processes read it."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import accumulate, chain, groupby
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import NamedTuple

from pikaforge.audit.elf.layout import ET_EXEC, Layout, mapped
from pikaforge.audit.isa.dispatch.fixed import numbers_in
from pikaforge.audit.isa.opcodes import calls, flows
from pikaforge.audit.isa.piece_scan import units
from pikaforge.audit.isa.ranges import GAP, TABLE, CodeMap
from pikaforge.audit.isa.swept import QUICK_BYTES
from pikaforge.audit.isa.worker_pool import Chunk

WORD = 8
"""Bytes of a pointer."""
Found = list[tuple[int, "array[int]", bool, frozenset[int]]]
"""Index of a piece, the addresses that it refers to, and whether it may run on into the next piece. The last one has
those addresses that are only numbers in its instructions: they may be no addresses."""


class PackedReferences(NamedTuple):
    """What `Found` has of many pieces, without an object for each."""

    pieces: array[int]
    counts: array[int]
    """The number of addresses of each."""
    addresses: array[int]
    """Those of all pieces."""
    through: bytes
    numbers: dict[int, frozenset[int]]
    """Those that are only numbers, of the pieces that have some."""


def packed(found: Found) -> PackedReferences:
    """Return what is found in one object."""
    return PackedReferences(
        array("q", [index for index, _, _, _ in found]),
        array("q", [len(addresses) for _, addresses, _, _ in found]),
        array("Q", chain.from_iterable(addresses for _, addresses, _, _ in found)),
        bytes(on for _, _, on, _ in found),
        {index: numbers for index, _, _, numbers in found if numbers},
    )


def movable_references(chunk: Chunk, bounds: tuple[tuple[int, int], ...]) -> PackedReferences:
    """Return what `references` returns, for code that may be loaded anywhere."""
    return packed(references(chunk, bounds))


def fixed_references(chunk: Chunk, bounds: tuple[tuple[int, int], ...]) -> PackedReferences:
    """Return what `references` returns, for a program with a fixed address: immediates and displacements count, too."""
    return packed(references(chunk, bounds, fixed=True))


def references_at_once(chunk: Chunk, bounds: tuple[tuple[int, int], ...]) -> PackedReferences:
    """Return what `references` returns, by decoding many instructions at once."""
    from pikaforge.audit.isa.swept.references import referred  # noqa: PLC0415

    if TABLE in chunk.kinds:
        return movable_references(chunk, bounds)
    left: set[int] = set()
    with mapped(Path(chunk.path)) as data:
        found = referred(chunk, data, bounds, left)
    on = {(flow, kind): _runs_on(flow, kind) for flow in set(found.flows) for kind in set(chunk.kinds)}
    through = bytes(
        on[flow, chunk.kinds[index - chunk.first]] for index, flow in zip(found.pieces, found.flows, strict=True)
    )
    out = PackedReferences(found.pieces, found.counts, found.addresses, through, {})
    return _with(out, references(chunk, bounds, wanted=chunk.with_gaps(left)), left) if left else out


def _with(some: PackedReferences, others: Found, left: set[int]) -> PackedReferences:
    """Return what is found, with that of the pieces that were decoded one by one; ascending."""
    ends = list(accumulate(some.counts))
    rows = (
        (index, some.addresses[end - count : end], bool(on), frozenset[int]())
        for index, count, end, on in zip(some.pieces, some.counts, ends, some.through, strict=True)
    )
    return packed(sorted((*rows, *(row for row in others if row[0] in left)), key=itemgetter(0)))


def references(
    chunk: Chunk, bounds: tuple[tuple[int, int], ...], *, fixed: bool = False, wanted: frozenset[int] | None = None
) -> Found:
    """Return the addresses that each piece of a chunk jumps to, calls, takes or touches; worker processes run this.

    Pieces that are only padding are left out.

    Args:
        chunk: the pieces.
        bounds: ranges of the library's addresses; others are left out.
        fixed: whether immediates and displacements may be addresses.
        wanted: indexes of the pieces that are read, with all pieces of their gaps; None: all.
    """
    from iced_x86 import MemorySizeExt, Mnemonic, Register  # noqa: PLC0415

    branch = attrgetter("near_branch_target")
    memory, rip = attrgetter("memory_base", "memory_displacement", "memory_size"), Register.RIP
    idle = {int(Mnemonic.NOP), int(Mnemonic.INT3)}
    lowest, highest = min((low for low, _ in bounds), default=0), max((high for _, high in bounds), default=0)
    out: Found = []
    with mapped(Path(chunk.path)) as data:
        for index, parts in groupby(units(chunk, data, wanted=wanted), key=attrgetter("piece")):
            kind = chunk.kinds[index - chunk.first]
            instructions = list(chain.from_iterable(part.instructions for part in parts))
            while instructions and instructions[-1].mnemonic in idle:
                instructions.pop()
            if not instructions:
                continue
            touched = {(address, kind) for base, address, kind in map(memory, instructions) if base == rip}
            # A wide operand touches several words, and each may be a pointer.
            met = {at for start, kind in touched for at in range(start, start + max(MemorySizeExt.size(kind), 1), WORD)}
            met.update(map(branch, instructions))
            met.discard(0)  # what iced gives for instructions that are no branches
            found = {a for a in met if lowest <= a < highest and any(low <= a < high for low, high in bounds)}
            numbers = frozenset(numbers_in(instructions, bounds)) - found if fixed else frozenset()
            through = _runs_on(int(instructions[-1].flow_control), kind)
            out.append((index, array("Q", sorted(found | numbers)), through, numbers))
    return out


def _runs_on(flow: int, kind: int) -> bool:
    """Return whether a piece of a kind may run on into the next one, by how it ends."""
    # A call at the end of a function does not return (abort). A gap may end within a function.
    return flow not in flows() and (kind == GAP or flow not in calls())


def reader(layout: Layout, code: CodeMap) -> Callable[[Chunk, tuple[tuple[int, int], ...]], PackedReferences]:
    """Return what reads the references of a file's code."""
    if layout.type == ET_EXEC:
        return fixed_references
    return references_at_once if code.size >= QUICK_BYTES else movable_references
