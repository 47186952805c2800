"""The references in a library: from code to code and data, and from pointers in data to code and data.

Nodes are pieces of code (by their index in the code map) and objects of data. The borders of objects are not known. So
an object begins at each address that code or a pointer names, and ends where the next one begins: code that names an
object can use all pointers in it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from pikaforge.audit.elf.executable import regions
from pikaforge.audit.elf.layout import PF_W, PF_X, PT_LOAD, Buffer, Layout
from pikaforge.audit.elf.pointers import CodePointers
from pikaforge.audit.isa.dispatch.fixed import Boundaries
from pikaforge.audit.isa.dispatch.references import reader
from pikaforge.audit.isa.ranges import NOWHERE, CodeMap
from pikaforge.audit.isa.worker_pool import WorkerPool, chunks

JUMP_THROUGH = b"\xff\x25"
"""jmp *place(%rip)"""
STUB_STARTS = ((5, b"\xf3\x0f\x1e\xfa\xf2"), (4, b"\xf3\x0f\x1e\xfa"), (1, b"\xf2"), (0, b""))
"""What may be before it in a stub: endbr64, and the prefix bnd."""
STUB_ALIGNMENT = 8
PIECE, OBJECT = 0, 1
"""The lowest bit of the number of a piece and of an object, where both are nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The references of one library."""

    code: CodeMap
    references: Mapping[int, array[int]]
    """The addresses that a piece refers to, by the piece."""
    through: frozenset[int]
    """Pieces that may run on into the next one."""
    given: frozenset[int]
    """Addresses that others may use from the start; see `CodePointers`."""
    resolvers: frozenset[int]
    """Addresses of ifunc resolvers."""
    objects: array[int]
    """Addresses at which objects of data begin, ascending."""
    pointers: Mapping[int, tuple[int, ...]]
    """The addresses that the pointers in an object point to, by the object's address."""
    users: Mapping[int, frozenset[int]]
    """The pieces that name an object, by the object's address."""
    callers: Mapping[int, frozenset[tuple[int, int]]]
    """The other pieces that refer to a piece, each with the address that it refers to, by the piece."""
    places: frozenset[int]
    """Addresses of the words that the loader writes."""
    writable: tuple[tuple[int, int], ...]
    """Ranges of data that the program may change."""
    pointed: frozenset[int]
    """Objects that pointers in data point to, or that others may use from the start."""
    stubs: Mapping[int, int] = field(default_factory=dict)
    """Stubs by which a library calls functions that others may replace (PLT), with the place of the function's address.
    In `references` and `callers` the place stands for the stub."""
    nodes: dict[int, array[int]] = field(default_factory=dict)
    """What pieces refer to, as far as it was asked for (`_nodes`)."""
    held: dict[int, array[int]] = field(default_factory=dict)
    """What objects point to, by the object's number, as far as it was asked for (`_held`)."""

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

    def through_stub(self, address: int) -> int:
        """Return the library's own function that a stub leads to; any other address as it is."""
        held = self.pointers.get(self.stubs.get(address, 0), ())
        return held[0] if len(held) == 1 else address

    def targets(self, piece: int) -> Iterable[int]:
        """Yield all addresses that a piece refers to, or runs on into."""
        yield from self.references.get(piece, ())
        if piece in self.through or piece not in self.references:  # padding runs on
            yield self.code.ends[piece]

    def roots(self) -> set[int]:
        """Return the addresses that others may use from the start, and those to which nothing in the file refers.

        Code without a visible reference may be used in a way that is not seen here, so it counts as used.
        """
        unnamed = {
            self.code.starts[piece] for piece in self.references if piece not in self.callers
        }  # fmt: skip
        lone = {start for start in self.pointers if start not in self.users and start not in self.pointed}
        return set(self.given) | unnamed | lone

    def lone_above(self, pieces: Iterable[int], depth: int) -> set[int]:
        """Return the starts of functions to which nothing leads, and from which some pieces are reached in few steps.

        glibc has such functions: it lists them only for its own tests.
        """
        near = set(pieces)
        for _ in range(depth):
            near |= {source for piece in near for source, _ in self.callers.get(piece, ())}
        return {self.code.starts[piece] for piece in near if piece not in self.callers} - self.given

    def _node(self, address: int) -> int:
        """Return what an address is in: twice the index of a piece, or that of an object and one."""
        address = self.stubs.get(address, address)
        piece = self.code.at(address)
        return 2 * piece + PIECE if piece != NOWHERE else 2 * (bisect_right(self.objects, address) - 1) + OBJECT

    def _nodes(self, piece: int) -> array[int]:
        """Return what a piece refers to, each once; it is asked for each feature again, so that it is kept."""
        held = self.nodes.get(piece)
        if held is None:
            held = self.nodes[piece] = array("q", dict.fromkeys(map(self._node, self.targets(piece))))
        return held

    def _held(self, place: int) -> array[int]:
        """Return what the object of a number points to, each once."""
        found = self.held.get(place)
        if found is None:
            pointers = self.pointers.get(self.objects[place], ())
            found = self.held[place] = array("q", dict.fromkeys(map(self._node, pointers)))
        return found

    def reach(self, open_: Callable[[int], Iterable[int] | None], *, without: Set[int] = frozenset()) -> Reach:
        """Return what is reached from outside of the library.

        Args:
            open_: returns the addresses that a piece leads to; None means all that it refers to.
            without: addresses that others do not use, although they could.
        """
        reach = Reach()
        begin = dict.fromkeys(map(self._node, sorted(self.roots() - without)), NOWHERE)
        seen = set(begin)
        waiting = deque(begin.items())
        while waiting:
            node, source = waiting.popleft()
            place = node >> 1
            if node & 1 == PIECE:
                reach.pieces[place] = source
                source, found = place, open_(place)
                nodes: Iterable[int] = self._nodes(place) if found is None else map(self._node, sorted(found))
            elif place >= 0:
                reach.objects.add(self.objects[place])
                nodes = self._held(place)
            else:
                continue
            for target in nodes:
                if target not in seen:
                    seen.add(target)
                    waiting.append((target, source))
        return reach


@dataclass(slots=True)
class Reach:
    """The code and data that are reached from outside."""

    pieces: dict[int, int] = field(default_factory=dict)
    """The pieces that are reached, each with the piece from which it was reached first, or -1."""
    objects: set[int] = field(default_factory=set)
    """Addresses of the objects that are reached."""

    def way(self, piece: int, limit: int = 3) -> list[int]:
        """Return up to `limit` pieces by which a piece is reached, the outermost first."""
        way: list[int] = []
        at = self.pieces.get(piece, NOWHERE)
        while at != NOWHERE and len(way) < limit:
            way.append(at)
            at = self.pieces[at]
        return way[::-1]


def read_graph(
    path: Path, data: Buffer, layout: Layout, code: CodeMap, given: CodePointers, *, pool: WorkerPool
) -> Graph:
    """Return the references in a library.

    Args:
        path: the file.
        data: its bytes.
        layout: its layout.
        code: its pieces.
        given: the addresses in it that the loader and other files use.
        pool: the worker processes.
    """
    loads = [s for s in layout.segments if s.type == PT_LOAD]
    bounds = tuple((s.address, s.address + s.memory_size) for s in loads)
    found: dict[int, array[int]] = {}
    through = set()
    work = reader(layout, code)
    boundaries = Boundaries(data, code)
    for part in pool.each(work, chunks(path, code), bounds):
        for index, addresses, on, numbers in part:
            found[index] = boundaries.without(addresses, numbers, index)
            if on:
                through.add(index)
    stubs = _stubs(data, layout)
    for piece in {code.at(stub) for stub in stubs}:
        found.pop(piece, None)
        through.discard(piece)
    if stubs:
        found = {piece: array("Q", (stubs.get(a, a) for a in addresses)) for piece, addresses in found.items()}
    running = [(r.address, r.address + r.size) for r in regions(data, layout, str(path))]
    callers, users = _uses(code, found, through, running)
    named = {value for _, value in given.stored} | given.given
    data_named = {a for a in named if code.at(a) == NOWHERE}
    sections = [s.address for s in layout.sections if s.address and s.size]
    starts = sorted({*users, *data_named, *sections, *chain.from_iterable((*bounds, *given.arrays))})
    pointers: dict[int, list[int]] = {}
    called = set()
    for place, value in given.stored:
        if _inside(place, given.arrays):
            called.add(value)
        else:
            pointers.setdefault(starts[bisect_right(starts, place) - 1], []).append(value)
    for target in {code.at(a) for a in named} - {NOWHERE}:
        callers.setdefault(target, set())
    return Graph(
        code=code,
        references=found,
        through=frozenset(through),
        given=given.given | called,
        resolvers=given.resolvers,
        objects=array("Q", starts),
        pointers={start: tuple(values) for start, values in pointers.items()},
        users={start: frozenset(pieces) for start, pieces in users.items()},
        callers={piece: frozenset(sources) for piece, sources in callers.items()},
        places=given.places,
        writable=tuple((s.address, s.address + s.memory_size) for s in loads if s.flags & PF_W and not s.flags & PF_X),
        pointed=frozenset(data_named),
        stubs=stubs,
    )


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


def _uses(
    code: CodeMap, found: Mapping[int, array[int]], through: Set[int], running: Iterable[tuple[int, int]]
) -> tuple[dict[int, set[tuple[int, int]]], dict[int, set[int]]]:
    """Return `Graph.callers` and `Graph.users`; `running` are the ranges of addresses that hold code."""
    callers: dict[int, set[tuple[int, int]]] = {}
    users: dict[int, set[int]] = {}
    for piece, addresses in found.items():
        for address in [*addresses, *([_onward(code, found, piece)] if piece in through else [])]:
            target = code.at(address)
            if target == NOWHERE:
                if not _inside(address, running):
                    users.setdefault(address, set()).add(piece)
            elif target != piece:
                callers.setdefault(target, set()).add((piece, address))
    return callers, users


def _onward(code: CodeMap, found: Mapping[int, array[int]], piece: int) -> int:
    """Return the address that a piece runs on into, behind padding."""
    address = code.ends[piece]
    while (following := code.at(address)) != NOWHERE and following not in found:
        address = code.ends[following]
    return address


def _inside(address: int, ranges: Iterable[tuple[int, int]]) -> bool:
    return any(low <= address < high for low, high in ranges)


def word(data: Buffer, layout: Layout, address: int, size: int) -> bytes | None:
    """Return the bytes at an address of a loaded file, before relocation; None outside of its segments."""
    for part in layout.segments:
        if part.type == PT_LOAD and part.address <= address and address + size <= part.address + part.memory_size:
            at = address - part.address
            held = bytes(data[part.offset + min(at, part.file_size) : part.offset + min(at + size, part.file_size)])
            return held + bytes(size - len(held))
    return None
