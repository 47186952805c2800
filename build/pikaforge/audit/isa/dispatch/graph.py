"""The references in a library: from code to code and data, and from pointers in data to code and data.

Nodes are pieces of code (by their index in the code map) and objects of data. The borders of objects are not known. So
an object begins at each address that code or a pointer names, and ends where the next one begins: code that names an
object can use all pointers in it.

There may be millions of references, so all of them are in arrays (`graph_edges` makes them).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pikaforge.audit.elf.layout import PT_LOAD, Buffer, Layout
from pikaforge.audit.isa.dispatch.rows import EMPTY, AddressSet, Rows, is_in, numbers
from pikaforge.audit.isa.ranges import LAST, NOWHERE, CodeMap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pikaforge.audit.isa.dispatch.rows import AnyNumbers, Numbers, Places

    Pieces = NDArray[np.int32]

NOT_REACHED = -2


class References:
    """The addresses that pieces refer to, by the piece. Pieces that are only padding are not in it."""

    def __init__(self, counts: Places, known: NDArray[np.bool_], addresses: AnyNumbers) -> None:
        """Keep the addresses of all pieces, in the order of pieces; `counts` says how many each one has."""
        self.known, self.addresses = known, addresses
        self.bounds = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))

    def __contains__(self, piece: int) -> bool:
        return 0 <= piece < len(self.known) and bool(self.known[piece])

    def get(self, piece: int) -> array[int]:
        """Return the addresses that a piece refers to; none of one that is not in it."""
        if piece < 0:
            return array("Q")
        held = self.addresses[self.bounds[piece] : self.bounds[piece + 1]]
        return array("Q", held.astype(np.uint64).tobytes())

    def naming(self, places: Set[int]) -> set[int]:
        """Return the pieces that refer to one of some addresses."""
        met = np.flatnonzero(is_in(self.addresses.astype(np.uint64), np.sort(numbers(frozenset(places)))))
        return set((self.bounds.searchsorted(met, side="right") - 1).tolist())


class Callers:
    """The other pieces that refer to a piece, each with the address that it refers to, by the piece.

    A piece to which only pointers lead is in it, too, without any.
    """

    def __init__(
        self,
        targets: Pieces,
        sources: Pieces,
        addresses: AnyNumbers,
        known: NDArray[np.bool_],
    ) -> None:
        """Keep rows of a piece, one that refers to it, and the address; `known` says which pieces are in it."""
        order = np.argsort(targets, kind="stable")
        self.known = known
        self._bounds = np.searchsorted(targets[order], np.arange(len(known) + 1))
        self._sources, self._addresses = sources[order], addresses[order]

    def __contains__(self, piece: int) -> bool:
        return 0 <= piece < len(self.known) and bool(self.known[piece])

    def get(self, piece: int) -> frozenset[tuple[int, int]]:
        """Return the pieces that refer to one, each with the address; none of one that is not in it."""
        if not 0 <= piece < len(self.known):
            return frozenset()
        part = slice(self._bounds[piece], self._bounds[piece + 1])
        return frozenset(zip(self._sources[part].tolist(), self._addresses[part].tolist(), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """What each node leads to: pieces by their index, then objects."""

    bounds: Places
    targets: NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """The references of one library."""

    code: CodeMap
    references: References
    through: NDArray[np.bool_]
    """Whether a piece may run on into the next one."""
    given: frozenset[int]
    """AddressSet that others may use from the start; see `CodePointers`."""
    resolvers: frozenset[int]
    """AddressSet of ifunc resolvers."""
    objects: array[int]
    """AddressSet at which objects of data begin, ascending."""
    pointers: Rows
    """The addresses that the pointers in an object point to, by the object's address."""
    holders: tuple[array[int], array[int]]
    """All these addresses, ascending, and the object that has each."""
    users: Rows
    """The pieces that name an object, by the object's address."""
    callers: Callers
    places: AddressSet
    """AddressSet of the words that the loader writes."""
    writable: tuple[tuple[int, int], ...]
    """Ranges of data that the program may change."""
    pointed: AddressSet
    """Objects that pointers in data point to, or that others may use from the start."""
    led: AddressSet
    """AddressSet of code and data that pointers in data point to, or that others may use from the start."""
    stubs: Mapping[int, int] = field(default_factory=dict)
    """Stubs by which a library calls functions that others may replace (PLT), with the place of the function's address.
    In `references` and `callers` the place stands for the stub."""
    nodes: Nodes

    def object_at(self, address: int) -> int | None:
        """Return the address of the object that holds an address; None if it is before all objects."""
        index = bisect_right(self.objects, address) - 1
        return self.objects[index] if index >= 0 else None

    def object_end(self, start: int) -> int:
        """Return the address at which the next object begins."""
        index = bisect_right(self.objects, start)
        return self.objects[index] if index < len(self.objects) else start + 1

    def objects_between(self, low: int, high: int) -> Iterable[int]:
        """Return the addresses in a range at which objects begin."""
        return self.objects[bisect_left(self.objects, low) : bisect_left(self.objects, high)]

    def is_writable(self, address: int) -> bool:
        """Return whether an address is in data that the program may change."""
        return any(low <= address < high for low, high in self.writable)

    def pointed_in(self, piece: int) -> set[int]:
        """Return the addresses in a piece that pointers in data point to, or that others may use from the start."""
        return set(self.led.between(self.code.starts[piece], self.code.ends[piece]))

    def is_pointed(self, piece: int) -> bool:
        """Return whether there are such addresses in a piece."""
        return self.led.any_between(self.code.starts[piece], self.code.ends[piece])

    def holders_of(self, piece: int) -> set[int]:
        """Return the objects of data that hold pointers to a piece."""
        values, objects = self.holders
        low, high = self.code.starts[piece], self.code.ends[piece]
        return set(objects[bisect_left(values, low) : bisect_left(values, high)])

    def table_holders(self, start: int) -> set[int]:
        """Return the objects of data that hold pointers to another one."""
        values, objects = self.holders
        index = bisect_right(self.objects, start)
        end = self.objects[index] if index < len(self.objects) else LAST + 1
        low, high = bisect_left(values, start), bisect_left(values, end)
        return {objects[number] for number in range(low, high) if self.code.at(values[number]) == NOWHERE}

    def through_stub(self, address: int) -> int:
        """Return the library's own function that a stub leads to; any other address as it is."""
        held = self.pointers.get(self.stubs[address]) if address in self.stubs else EMPTY
        return held[0] if len(held) == 1 else address

    def targets(self, piece: int) -> Iterable[int]:
        """Yield all addresses that a piece refers to, or runs on into."""
        yield from self.references.get(piece)
        if self.through[piece] or piece not in self.references:  # padding runs on
            yield self.code.ends[piece]

    def unused(self) -> Numbers:
        """Return the starts of functions to which nothing in the file leads."""
        starts = numbers(self.code.starts)
        return starts[self.references.known & ~self.callers.known]

    @cached_property
    def roots(self) -> Numbers:
        """The addresses that others may use from the start, and those to which nothing in the file refers, ascending.

        Code without a visible reference may be used in a way that is not seen here, so it counts as used.
        """
        holding = self.pointers.keys
        lone = holding[~is_in(holding, self.users.keys) & ~is_in(holding, self.pointed.sorted)]
        return np.unique(np.concatenate((numbers(self.given), self.unused(), lone)))

    def lone_above(self, pieces: Iterable[int], depth: int) -> set[int]:
        """Return the starts of functions to which nothing leads, and from which some pieces are reached in few steps.

        glibc has such functions: it lists them only for its own tests.
        """
        near = set(pieces)
        for _ in range(depth):
            near |= {source for piece in near for source, _ in self.callers.get(piece)}
        return {self.code.starts[piece] for piece in near if piece not in self.callers} - self.given

    def node(self, address: int) -> int:
        """Return what an address is in: the index of a piece, or behind these that of an object; -1 if in neither."""
        address = self.stubs.get(address, address)
        piece = self.code.at(address)
        if piece != NOWHERE:
            return piece
        index = bisect_right(self.objects, address) - 1
        return len(self.code) + index if index >= 0 else NOWHERE

    def reach(
        self, open_: Mapping[int, Set[int]], *, without: Set[int] = frozenset(), also: Set[int] = frozenset()
    ) -> Reach:
        """Return what is reached from outside of the library.

        Args:
            open_: the addresses that pieces lead to; others lead to all that they refer to.
            without: addresses that others do not use, although they could.
            also: further addresses that are used from the start.
        """
        begin = self.roots
        if without:
            begin = begin[~is_in(begin, np.sort(numbers(frozenset(without))))]
        if also:
            begin = np.unique(np.concatenate((begin, numbers(frozenset(also)))))
        return _Walk(self, open_).run(begin)


@dataclass(slots=True)
class Reach:
    """The code that is reached from outside."""

    sources: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    """By piece: the piece from which it was reached first, -1 if from outside, or `NOT_REACHED`."""
    objects: array[int] = field(default_factory=lambda: array("Q"))
    """The graph's objects of data."""
    data: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, bool))
    """By object: whether it is reached."""

    def __contains__(self, piece: int) -> bool:
        return 0 <= piece < len(self.sources) and self.sources[piece] != NOT_REACHED

    def has_data(self, start: int) -> bool:
        """Return whether the object of data is reached that begins at an address."""
        return bool(self.data[bisect_left(self.objects, start)])

    def way(self, piece: int, limit: int = 3) -> list[int]:
        """Return up to `limit` pieces by which a piece is reached, the outermost first."""
        way: list[int] = []
        at = int(self.sources[piece]) if piece in self else NOWHERE
        while at != NOWHERE and len(way) < limit:
            way.append(at)
            at = int(self.sources[at])
        return way[::-1]


class _Walk:
    """The way from some nodes to all that they lead to, all nodes of one distance at once.

    Those of one distance are in the order in which one after the other would find them.
    """

    def __init__(self, graph: Graph, open_: Mapping[int, Set[int]]) -> None:
        self._graph, self._open = graph, open_
        self._count = len(graph.code)
        self._given = np.zeros(self._count + len(graph.objects), bool)
        self._given[[piece for piece in open_ if piece != NOWHERE]] = True
        self._seen = np.zeros(len(self._given), bool)

    def run(self, begin: Numbers) -> Reach:
        """Return what some addresses lead to."""
        found = np.fromiter(map(self._graph.node, begin.tolist()), np.int64, len(begin))
        sources = np.full(self._count, NOT_REACHED, np.int32)
        nodes, origin = self._new(found, np.full(len(found), NOWHERE, np.int64))
        while len(nodes):
            pieces = nodes < self._count
            sources[nodes[pieces]] = origin[pieces]
            nodes, origin = self._new(*self._following(nodes, np.where(pieces, nodes, origin)))
        return Reach(sources, self._graph.objects, self._seen[self._count :])

    def _following(self, nodes: Places, origin: Places) -> tuple[Places, Places]:
        """Return what some nodes lead to, in their order, each with the node's origin."""
        held = self._graph.nodes
        first = held.bounds[nodes]
        counts = held.bounds[nodes + 1] - first
        special = np.flatnonzero(self._given[nodes])
        counts[special] = 0
        number = np.repeat(np.arange(len(nodes)), counts)
        at = np.arange(len(number)) - np.repeat(np.cumsum(counts) - counts, counts) + first[number]
        targets: Places = held.targets[at].astype(np.int64)
        if len(special):
            lists = [[self._graph.node(a) for a in sorted(self._open[int(nodes[one])])] for one in special.tolist()]
            number = np.concatenate((number, np.repeat(special, [len(one) for one in lists])))
            targets = np.concatenate((targets, np.array([node for one in lists for node in one], np.int64)))
            order = np.argsort(number, kind="stable")
            number, targets = number[order], targets[order]
        return targets, origin[number]

    def _new(self, nodes: Places, origin: Places) -> tuple[Places, Places]:
        """Return those of some nodes that were not met before, each once, and mark them."""
        fresh = np.flatnonzero(nodes >= 0)
        fresh = fresh[~self._seen[nodes[fresh]]]
        _, firsts = np.unique(nodes[fresh], return_index=True)
        fresh = fresh[np.sort(firsts)]
        self._seen[nodes[fresh]] = True
        return nodes[fresh], origin[fresh]


def word(data: Buffer, layout: Layout, address: int, size: int) -> bytes | None:
    """Return the bytes at an address of a loaded file, before relocation; None outside of its segments."""
    for part in layout.segments:
        if part.type == PT_LOAD and part.address <= address and address + size <= part.address + part.memory_size:
            at = address - part.address
            held = bytes(data[part.offset + min(at, part.file_size) : part.offset + min(at + size, part.file_size)])
            return held + bytes(size - len(held))
    return None
