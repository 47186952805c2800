"""Decode a chunk: most pieces many instructions at once (`swept`), the others one by one (`piece_scan`).

One by one are decoded the pieces in which anything is not usual: what is no instruction or not allowed, an instruction
that is cut off, a table. Both ways give the same.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pikaforge.audit.elf.layout import Buffer, mapped
from pikaforge.audit.isa.opcodes import LONGEST, tables
from pikaforge.audit.isa.piece_scan import ALIGNED, BRANCH_66, follow, hits_of, scan_units
from pikaforge.audit.isa.ranges import GAP, TABLE
from pikaforge.audit.isa.scan_facts import Given, Scanned, Unit
from pikaforge.audit.isa.worker_pool import Chunk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pikaforge.audit.isa.scan_facts import FeatureHit
    from pikaforge.audit.isa.swept.blocks import CodeBlock


def warm(given: Given) -> None:
    """Make the tables for a set of allowed features, so that a new process has them when work comes."""
    tables(given.allowed)
    if given.quick:
        from pikaforge.audit.isa.swept.blocks import kinds_for  # noqa: PLC0415

        kinds_for(given.allowed)


def scan_pieces(chunk: Chunk, given: Given) -> Scanned:
    """Decode a chunk."""
    out = Scanned()
    with mapped(Path(chunk.path)) as data:
        # Where tables are among the code, each piece may run into one.
        if not given.quick or TABLE in chunk.kinds:
            scan_units(chunk, data, given, out)
            return out
        left = _quickly(chunk, data, given, out)
        if left:
            scan_units(chunk, data, given, out, only=left)
        out.found.sort(key=itemgetter(0))
        out.mixed.sort()
    return out


def _quickly(chunk: Chunk, data: Buffer, given: Given, out: Scanned) -> frozenset[int]:
    """Scan what can be decoded at once; return the indexes of the pieces that are left."""
    import numpy as np  # noqa: PLC0415

    from pikaforge.audit.isa.swept.blocks import apart, blocks, kinds_for  # noqa: PLC0415

    known = kinds_for(given.allowed)
    met = np.zeros(len(known.flags), bool)
    outward: list[NDArray[np.uint64]] = []
    left = set(apart(chunk))
    for block in blocks(chunk, data, given.allowed):
        scan = _BlockScan(chunk, data, given, block)
        outward.append(scan.run(out, met))
        outward.append(np.fromiter(scan.elsewhere, np.uint64))
        left.update(block.pieces[block.unfit].tolist())
    out.codes |= known.codes_of(np.flatnonzero(met))
    if outward:
        out.outward = array("Q", np.unique(np.concatenate(outward)).tobytes())
    return frozenset(left)


class _Branches(NamedTuple):
    """Direct branches of a block."""

    owner: NDArray[np.intp]
    """The place of the piece of each, in `CodeBlock.pieces`."""
    target: NDArray[np.int64]
    """Offsets."""


class _BlockScan:
    """The scan of a block."""

    def __init__(self, chunk: Chunk, data: Buffer, given: Given, block: CodeBlock) -> None:
        self._chunk, self._data, self._given, self._block = chunk, data, given, block
        self._known = tables(given.allowed)
        self._kinds = [chunk.kinds[index - chunk.first] for index in block.pieces.tolist()]
        self.elsewhere: set[int] = set()
        """Addresses in other pieces to which instructions within others lead."""

    def run(self, out: Scanned, met: NDArray[np.bool_]) -> NDArray[np.uint64]:
        """Add what is found to a result, and mark the kinds that are met; return the targets elsewhere."""
        import numpy as np  # noqa: PLC0415

        block = self._block
        if self._given.amd:
            self._short_operands()
        skipped = block.unfit | self._mixed(out)
        swept = block.swept
        branches, inner = self._branches(skipped)
        self._inside(branches, inner, out)
        kept = swept.kinds if not skipped.any() else swept.kinds[~skipped[block.owner]]
        met[kept] = True
        self._not_allowed(skipped, out)
        asking = block.owner[block.detecting()]
        out.detecting += np.unique(block.pieces[asking[~skipped[asking]]]).tolist()
        out.codes.update(one.code for number, one in block.odd if not skipped[block.owner[number]])
        away = branches.target[~inner]
        targets = away.astype(np.uint64) + np.uint64(block.base)
        return np.unique(targets[targets != 0])

    def _branches(self, skipped: NDArray[np.bool_]) -> tuple[_Branches, NDArray[np.bool_]]:
        """Return the branches of pieces that are not skipped, and whether each leads into its own piece."""
        block = self._block
        places, targets = block.targets()
        owner = block.owner[places]
        kept = ~skipped[owner]
        owner, targets = owner[kept], targets[kept]
        return _Branches(owner, targets), (targets >= block.begin[owner]) & (targets < block.end[owner])

    def _inside(self, branches: _Branches, inner: NDArray[np.bool_], out: Scanned) -> None:
        """Follow jumps into instructions."""
        owner, target = branches.owner[inner], branches.target[inner]
        odd = ~self._block.begun[target]
        for piece, targets in _grouped(owner[odd], target[odd]):
            if hits := self._follow(piece, targets, self.elsewhere):
                out.found.append((int(self._block.pieces[piece]), hits))

    def _not_allowed(self, skipped: NDArray[np.bool_], out: Scanned) -> None:
        """Add the findings in pieces that are not skipped: what is not allowed there."""
        import numpy as np  # noqa: PLC0415

        from pikaforge.audit.isa.swept.kinds import BAD  # noqa: PLC0415

        block = self._block
        some = block.having(BAD)
        some = some[~skipped[block.owner[some]]]
        if not len(some):
            return
        codes = block.kinds.codes[block.swept.kinds[some]].astype(np.intp)
        keys = block.owner[some] << 16 | codes
        numbers, firsts, counts = np.unique(keys, return_index=True, return_counts=True)
        order = np.lexsort((firsts, numbers >> 16))
        rows = zip(
            (numbers[order] >> 16).tolist(),
            block.swept.places[some[firsts[order]]].tolist(),
            counts[order].tolist(),
            strict=True,
        )
        for owner, each in groupby(rows, key=itemgetter(0)):
            hits: dict[str, FeatureHit] = {}
            for _, place, count in each:
                one = block.decoded(place)
                raw = block.raw[place : place + one.len].tobytes()
                for hit in hits_of([one], raw, one.ip, self._given.allowed):
                    old = hits.get(hit.feature)
                    hits[hit.feature] = replace(old or hit, count=count + (old.count if old else 0))
            out.found.append((int(block.pieces[owner]), tuple(hits.values())))

    def _mixed(self, out: Scanned) -> NDArray[np.bool_]:
        """Return whether zeros hide an instruction in a gap (`piece_scan.is_mixed`), and add such gaps to a result."""
        import numpy as np  # noqa: PLC0415

        block = self._block
        mixed = np.zeros(len(block.pieces), bool)
        first = -block.base % ALIGNED or ALIGNED
        at = np.arange(first, block.end[-1], ALIGNED)
        raw = block.raw
        at = at[(raw[at] != 0) & (raw[at - 1] == 0) & (raw[at - 2] == 0) & ~block.begun[at]]
        if not len(at):
            return mixed
        owner = np.searchsorted(block.end, at, side="right")
        gap = np.array(self._kinds) == GAP
        begin = block.begin[owner]
        begin += -(begin + block.base % ALIGNED) % ALIGNED + ALIGNED
        fit = gap[owner] & ~block.unfit[owner] & (at >= begin)
        for piece, places in _grouped(owner[fit], at[fit]):
            if self._follow(piece, places, None):
                mixed[piece] = True
                out.mixed.append((int(block.pieces[piece]), block.base + int(block.begin[piece])))
        return mixed

    def _short_operands(self) -> None:
        """Have pieces decoded one by one in which CPUs of AMD may take branches in another way."""
        block = self._block
        for found in BRANCH_66.finditer(block.raw.tobytes()):
            # A piece that begins behind the prefix has no such branch, and looking at it does no harm.
            for at in (found.start(), found.end()):
                owner = int(block.end.searchsorted(at, side="right"))
                if owner < len(block.unfit):
                    block.unfit[owner] = True

    def _follow(self, piece: int, targets: list[int], outward: set[int] | None) -> tuple[FeatureHit, ...]:
        """Return what is found at some offsets within instructions of a piece."""
        block = self._block
        begin, end = int(block.begin[piece]), int(block.end[piece])
        start, stop = block.base + begin, block.base + end
        last = int(block.swept.places[block.swept.places.searchsorted(end) - 1])
        raw = block.raw[begin:end].tobytes()
        slack = block.raw[end : end + LONGEST].tobytes()
        unit = Unit(int(block.pieces[piece]), start, stop, raw, slack, self._kinds[piece] == GAP, [])
        begun = _Begun(block.begun[begin:end], start)
        begun.add(block.base + last + int(block.lengths[last]))
        return follow(unit, [block.base + target for target in targets], self._known, begun=begun, outward=outward)


class _Begun:
    """The addresses at which instructions of a piece begin, and others that are added."""

    def __init__(self, begun: NDArray[np.bool_], start: int) -> None:
        self._begun, self._start = begun, start
        self._others: set[int] = set()

    def __contains__(self, address: int) -> bool:
        at = address - self._start
        return (0 <= at < len(self._begun) and bool(self._begun[at])) or address in self._others

    def add(self, address: int) -> None:
        """Add an address."""
        self._others.add(address)


def _grouped(owner: NDArray[np.intp], places: NDArray[np.int64]) -> Iterator[tuple[int, list[int]]]:
    """Yield the places of each owner."""
    held: dict[int, dict[int, None]] = {}
    for one, place in zip(owner.tolist(), places.tolist(), strict=True):
        held.setdefault(one, {})[place] = None
    for one, each in held.items():
        yield one, list(each)
