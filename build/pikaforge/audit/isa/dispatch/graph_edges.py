"""Make the graph of a library's references (`graph`) of what its code and its data refer to."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pikaforge.audit.elf.executable import regions
from pikaforge.audit.elf.layout import PF_W, PF_X, PT_LOAD, Buffer, Layout, Segment
from pikaforge.audit.elf.pointers import CodePointers
from pikaforge.audit.isa.dispatch.fixed import Boundaries
from pikaforge.audit.isa.dispatch.graph import Callers, Graph, Nodes, References
from pikaforge.audit.isa.dispatch.references import PackedReferences, reader
from pikaforge.audit.isa.dispatch.rows import AddressSet, Rows, numbers, row_of
from pikaforge.audit.isa.ranges import NOWHERE, CodeMap
from pikaforge.audit.isa.worker_pool import WorkerPool, chunks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pikaforge.audit.isa.dispatch.rows import AnyNumbers, Numbers, Places

    Kind = type[np.unsignedinteger[Any]]

JUMP_THROUGH = b"\xff\x25"
"""jmp *place(%rip)"""
STUB_STARTS = ((5, b"\xf3\x0f\x1e\xfa\xf2"), (4, b"\xf3\x0f\x1e\xfa"), (1, b"\xf2"), (0, b""))
"""What may be before it in a stub: endbr64, and the prefix bnd."""
STUB_ALIGNMENT = 8
BLOCK = 1 << 18
"""AddressSet that are looked up at once."""


def read_graph(
    path: Path,
    data: Buffer,
    layout: Layout,
    code: CodeMap,
    given: CodePointers,
    *,
    pool: WorkerPool,
    boundaries: Boundaries | None = None,
) -> Graph:
    """Return the references in a library.

    Args:
        path: the file.
        data: its bytes.
        layout: its layout.
        code: its pieces.
        given: the addresses in it that the loader and other files use.
        pool: the worker processes.
        boundaries: where its instructions begin, if some of that is known already.
    """
    loads = [s for s in layout.segments if s.type == PT_LOAD]
    bounds = tuple((s.address, s.address + s.memory_size) for s in loads)
    stubs = _stubs(data, layout)
    highest = max((*(high for _, high in bounds), *stubs.values()), default=0)
    edges = _edges(
        pool.each(reader(layout, code), chunks(path, code), bounds),
        boundaries or Boundaries(data, code),
        code,
        stubs,
        np.uint32 if highest <= 1 << 32 else np.uint64,
    )
    _without_stubs(code, edges, stubs)
    running = [(r.address, r.address + r.size) for r in regions(data, layout, str(path))]
    fixed = [s.address for s in layout.sections if s.address and s.size]
    fixed += chain.from_iterable((*bounds, *given.arrays))
    return _Builder(code, edges, given, stubs).graph(running, fixed, loads)


@dataclass(slots=True)
class _Edges:
    """What pieces refer to."""

    counts: Places
    """The number of addresses of each piece."""
    known: NDArray[np.bool_]
    """Whether a piece is more than padding."""
    through: NDArray[np.bool_]
    """Whether a piece may run on into the next one."""
    addresses: AnyNumbers = field(default_factory=lambda: np.empty(0, np.uint64))
    """Those of all pieces, in the order of pieces."""


def _edges(
    found: Iterable[PackedReferences], boundaries: Boundaries, code: CodeMap, stubs: Mapping[int, int], kind: Kind
) -> _Edges:
    """Return what is found, without numbers that lead nowhere, as numbers of a kind: half of them need half of it."""
    count = len(code)
    edges = _Edges(np.zeros(count, np.int64), np.zeros(count, bool), np.zeros(count, bool))
    held: list[AnyNumbers] = [np.empty(0, kind)]
    for part in found:
        pieces = np.frombuffer(part.pieces, np.int64)
        counts = np.frombuffer(part.counts, np.int64)
        addresses = numbers(part.addresses)
        edges.known[pieces], edges.through[pieces] = True, np.frombuffer(part.through, bool)
        if part.numbers:
            kept = _without_numbers(code, boundaries, part.numbers, np.repeat(pieces, counts), addresses)
            sums = np.concatenate((np.zeros(1, np.int64), np.cumsum(kept)))
            ends = np.cumsum(counts)
            counts, addresses = sums[ends] - sums[ends - counts], addresses[kept]
        edges.counts[pieces] = counts
        held.append(_behind_stubs(addresses, stubs).astype(kind))
    edges.addresses = np.concatenate(held)
    return edges


def _without_numbers(
    code: CodeMap, boundaries: Boundaries, some: Mapping[int, frozenset[int]], owner: Places, addresses: Numbers
) -> NDArray[np.bool_]:
    """Return which of some addresses are not numbers that lead nowhere; `some` has the numbers of pieces."""
    kept = np.ones(len(addresses), bool)
    for piece, held in some.items():
        leading = {number for number in held if code.at(number) == piece or boundaries.has(number)}
        if dropped := held - leading:
            part = slice(int(owner.searchsorted(piece)), int(owner.searchsorted(piece, side="right")))
            kept[part] = [address not in dropped for address in addresses[part].tolist()]
    return kept


def _without_stubs(code: CodeMap, edges: _Edges, stubs: Mapping[int, int]) -> None:
    """Take the pieces that hold stubs for padding."""
    pieces = [piece for piece in {code.at(stub) for stub in stubs} if piece != NOWHERE]
    if pieces:
        stub = np.zeros(len(edges.known), bool)
        stub[pieces] = True
        edges.addresses = edges.addresses[np.repeat(~stub, edges.counts)]
        edges.counts[stub], edges.known[stub], edges.through[stub] = 0, False, False


def _behind_stubs(addresses: Numbers, stubs: Mapping[int, int]) -> Numbers:
    """Return some addresses, where that of a stub is replaced by the place that it jumps through."""
    if not stubs:
        return addresses
    keys = np.array(sorted(stubs), np.uint64)
    places = np.array([stubs[key] % (1 << 64) for key in sorted(stubs)], np.uint64)
    at = np.minimum(keys.searchsorted(addresses), len(keys) - 1)
    found = keys[at] == addresses
    return np.where(found, places[at], addresses) if found.any() else addresses


class _Builder:
    """Makes a graph of what pieces refer to, and of pointers in data."""

    def __init__(self, code: CodeMap, edges: _Edges, given: CodePointers, stubs: Mapping[int, int]) -> None:
        self._code, self._edges, self._given, self._stubs = code, edges, given, stubs
        self._starts, self._ends = numbers(code.starts), numbers(code.ends)
        self._owner = np.repeat(np.arange(len(code), dtype=np.int32), edges.counts)
        self._target = self._pieces(edges.addresses)

    def graph(self, running: list[tuple[int, int]], fixed: list[int], loads: list[Segment]) -> Graph:
        """Return the graph.

        Args:
            running: ranges of addresses that hold code.
            fixed: addresses at which objects begin in any case.
            loads: what is loaded of the file.
        """
        edges, given = self._edges, self._given
        callers, users = self._uses(running)
        places, values = numbers(given.stored.places), numbers(given.stored.values)
        led = AddressSet(np.concatenate((values, numbers(given.given))))
        pieces = self._pieces(led.sorted)
        pointed = AddressSet(led.sorted[pieces == NOWHERE])
        callers.known[pieces[pieces != NOWHERE]] = True
        objects = np.unique(np.concatenate((users.keys, pointed.sorted, numbers(fixed))))
        called = np.zeros(len(places), bool)
        for low, high in given.arrays:
            called |= (places >= np.uint64(low)) & (places < np.uint64(high))
        kept = values[~called]
        owner = (objects.searchsorted(places[~called], side="right") - 1) % len(objects)
        order = np.argsort(kept, kind="stable")
        return Graph(
            code=self._code,
            references=References(edges.counts, edges.known, edges.addresses),
            through=edges.through,
            given=given.given | frozenset(values[called].tolist()),
            resolvers=given.resolvers,
            objects=array("Q", objects.tobytes()),
            pointers=Rows(objects[owner], kept),
            holders=(array("Q", kept[order].tobytes()), array("Q", objects[owner[order]].tobytes())),
            users=users,
            callers=callers,
            places=AddressSet(numbers(given.places)),
            writable=tuple(
                (s.address, s.address + s.memory_size) for s in loads if s.flags & PF_W and not s.flags & PF_X
            ),
            pointed=pointed,
            led=led,
            stubs=self._stubs,
            nodes=self._nodes(objects, owner, kept),
        )

    def _pieces(self, addresses: AnyNumbers) -> NDArray[np.int32]:
        """Return the pieces that hold some addresses; -1 where none does."""
        out = np.empty(len(addresses), np.int32)
        for at in range(0, len(addresses), BLOCK):  # so that what is between needs little memory
            some = addresses[at : at + BLOCK].astype(np.uint64)
            out[at : at + BLOCK] = row_of(self._starts, self._ends, some)
        return out

    def _uses(self, running: list[tuple[int, int]]) -> tuple[Callers, Rows]:
        """Return `Graph.callers` and `Graph.users`; `running` are the ranges of addresses that hold code."""
        on = np.flatnonzero(self._edges.through).astype(np.int32)
        onward = self._onward(on)
        known = np.zeros(len(self._code), bool)
        rows: list[tuple[NDArray[np.int32], NDArray[np.int32], AnyNumbers]] = []
        keys, users = [], []
        for owner, target, addresses in (
            (self._owner, self._target, self._edges.addresses),
            (on, self._pieces(onward), onward.astype(self._edges.addresses.dtype)),
        ):
            others = np.flatnonzero((target != NOWHERE) & (target != owner))
            known[target[others]] = True
            rows.append((target[others], owner[others], addresses[others]))
            using = np.flatnonzero(target == NOWHERE)
            data = addresses[using].astype(np.uint64)
            outside = np.ones(len(data), bool)
            for low, high in running:
                outside &= (data < np.uint64(low)) | (data >= np.uint64(high))
            keys.append(data[outside])
            users.append(owner[using[outside]])
        targets, sources, places = (np.concatenate(some) for some in zip(*rows, strict=True))
        return Callers(targets, sources, places, known), Rows(np.concatenate(keys), np.concatenate(users))

    def _onward(self, pieces: NDArray[np.int32]) -> Numbers:
        """Return the addresses that pieces run on into, behind padding."""
        addresses = self._ends[pieces]
        active = np.arange(len(pieces))
        while len(active):
            following = self._pieces(addresses[active])
            padding = (following != NOWHERE) & ~self._edges.known[following]
            active, following = active[padding], following[padding]
            addresses[active] = self._ends[following]
        return addresses

    def _nodes(self, objects: Numbers, owner: Places, values: Numbers) -> Nodes:
        """Return what each node leads to; `owner` has the number of the object that has each pointer."""
        edges, count = self._edges, len(self._code)
        on = edges.through | ~edges.known  # padding runs on
        counts = np.concatenate((edges.counts + on, np.bincount(owner, minlength=len(objects))))
        bounds = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
        targets = np.empty(bounds[-1], np.int32)
        before: Places = np.cumsum(on) - on
        for at in range(0, len(self._owner), BLOCK):
            part = slice(at, min(at + BLOCK, len(self._owner)))
            addresses = edges.addresses[part].astype(np.uint64)
            led = _behind_stubs(addresses, self._stubs)
            pieces = self._target[part] if led is addresses else self._pieces(led)
            places = np.arange(part.start, part.stop) + before[self._owner[part]]
            targets[places] = self._numbered(led, pieces, objects)
        ends = _behind_stubs(self._ends[on], self._stubs)
        targets[bounds[1 : count + 1][on] - 1] = self._numbered(ends, self._pieces(ends), objects)
        pointers = _behind_stubs(values[np.argsort(owner, kind="stable")], self._stubs)
        targets[bounds[count] :] = self._numbered(pointers, self._pieces(pointers), objects)
        return Nodes(bounds=bounds, targets=targets)

    def _numbered(self, addresses: Numbers, pieces: NDArray[np.int32], objects: Numbers) -> NDArray[np.int32]:
        """Return the numbers of the nodes that hold some addresses; `pieces` has those that are pieces."""
        out = pieces.copy()
        data = np.flatnonzero(pieces == NOWHERE)
        index = objects.searchsorted(addresses[data], side="right") - 1
        out[data] = np.where(index >= 0, index + len(self._code), NOWHERE)
        return out


def _stubs(data: Buffer, layout: Layout) -> dict[int, int]:
    """Return the addresses of stubs, with the places that they jump through (x86-64 psABI, 5.2; CET: endbr64 first)."""
    found = {}
    for section in layout.sections:
        if not section.name.startswith(".plt") or not section.in_file:
            continue
        raw = data[section.offset : section.offset + section.size]
        at = raw.find(JUMP_THROUGH)
        while 0 <= at <= len(raw) - 6:
            before = next((n for n, code in STUB_STARTS if at >= n and raw[at - n : at] == code), None)
            if before is not None and (at - before) % STUB_ALIGNMENT == 0:
                distance = int.from_bytes(raw[at + 2 : at + 6], "little", signed=True)
                found[section.address + at - before] = section.address + at + 6 + distance
            at = raw.find(JUMP_THROUGH, at + 6)
    return found
