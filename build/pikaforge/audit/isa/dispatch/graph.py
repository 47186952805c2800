"""Who refers to whom in a library: functions, and the data through which they are reached.

Nodes are pieces of code (by index in the map) and objects of data. An object begins at each address that code or a
pointer names, and ends where the next one begins: so a pointer in data is reached by code that names its object.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from pathlib import Path

from pikaforge.audit.elf.facts import regions
from pikaforge.audit.elf.layout import PF_W, PF_X, PT_LOAD, Buffer, Layout, mapped
from pikaforge.audit.elf.pointers import CodePointers
from pikaforge.audit.isa.ranges import GAP, NOWHERE, CodeMap
from pikaforge.audit.isa.worker_pool import Chunk, WorkerPool, chunks

PADDING = b"\x00\x90\xcc"
WORD = 8
ENDING = frozenset({"RETURN", "UNCONDITIONAL_BRANCH", "INDIRECT_BRANCH", "EXCEPTION"})
Found = list[tuple[int, "array[int]", bool]]
"""Index of a piece, the addresses that it refers to, and whether it may run into the next piece."""


def references(chunk: Chunk, bounds: tuple[tuple[int, int], ...]) -> Found:
    """The addresses within `bounds` that pieces jump to, call, take or touch; nothing of what is only padding."""
    from iced_x86 import Decoder, FlowControl, MemorySizeExt, Mnemonic, Register  # noqa: PLC0415

    branch = attrgetter("near_branch_target")
    memory, rip = attrgetter("memory_base", "memory_displacement", "memory_size"), Register.RIP
    ends = {int(getattr(FlowControl, name)) for name in ENDING}
    call, other = int(FlowControl.CALL), int(FlowControl.INDIRECT_CALL)
    idle = {int(Mnemonic.NOP), int(Mnemonic.INT3)}
    out: Found = []
    with mapped(Path(chunk.path)) as data:
        for index, (start, end, offset, kind) in enumerate(
            zip(chunk.starts, chunk.ends, chunk.offsets, chunk.kinds, strict=True), chunk.first
        ):
            raw = data[offset : offset + end - start]
            instructions = list(Decoder(64, raw, ip=start)) if kind != GAP or raw.strip(PADDING) else []
            while instructions and instructions[-1].mnemonic in idle:
                instructions.pop()
            if not instructions:
                continue
            touched = {(address, kind) for base, address, kind in map(memory, instructions) if base == rip}
            # A wide one touches several words, each of which may be a pointer.
            met = {at for start, kind in touched for at in range(start, start + max(MemorySizeExt.size(kind), 1), WORD)}
            met.update(map(branch, instructions))
            met.discard(0)  # of what is no branch
            found = sorted(a for a in met if any(low <= a < high for low, high in bounds))
            flow = int(instructions[-1].flow_control)
            # A call at the end of a function does not come back (abort); of code without a frame nothing is known.
            through = flow not in ends and (kind == GAP or flow not in (call, other))
            out.append((index, array("Q", found), through))
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The references of one library."""

    code: CodeMap
    references: Mapping[int, array[int]]
    """Addresses by the piece that refers to them."""
    through: frozenset[int]
    """Pieces that may run into the next one."""
    given: frozenset[int]
    resolvers: frozenset[int]
    objects: array[int]
    """Addresses at which objects of data begin, ascending."""
    pointers: Mapping[int, tuple[int, ...]]
    """What the pointers in an object lead to, by the object's address."""
    users: Mapping[int, frozenset[int]]
    """Pieces by the address of the object that they name."""
    callers: Mapping[int, frozenset[tuple[int, int]]]
    """Piece and address: who refers to which address of a piece, by the piece."""
    places: frozenset[int]
    """Addresses of the words that the loader writes."""
    writable: tuple[tuple[int, int], ...]
    """Ranges of data that the program may change."""
    pointed: frozenset[int]
    """Objects that pointers in data lead to, or that others may use from the start."""

    def object_at(self, address: int) -> int | None:
        """The address of the object that holds an address."""
        index = bisect_right(self.objects, address) - 1
        return self.objects[index] if index >= 0 else None

    def object_end(self, start: int) -> int:
        """Where the next object begins."""
        index = bisect_right(self.objects, start)
        return self.objects[index] if index < len(self.objects) else start + 1

    def objects_between(self, low: int, high: int) -> Iterable[int]:
        """The addresses at which objects begin, within a range."""
        return self.objects[bisect_left(self.objects, low) : bisect_left(self.objects, high)]

    def is_writable(self, address: int) -> bool:
        """Whether an address is of data that the program may change."""
        return any(low <= address < high for low, high in self.writable)

    def targets(self, piece: int) -> Iterable[int]:
        """All addresses that a piece refers to, or may run into."""
        yield from self.references.get(piece, ())
        if piece in self.through or piece not in self.references:  # what is only padding leads on
            yield self.code.ends[piece]

    def roots(self) -> set[int]:
        """Addresses that others use from the start, and code to which nothing in the file refers."""
        unnamed = {
            self.code.starts[piece] for piece in self.references if piece not in self.callers
        }  # fmt: skip
        lone = {start for start in self.pointers if start not in self.users and start not in self.pointed}
        return set(self.given) | unnamed | lone

    def reach(self, open_: Callable[[int], Iterable[int] | None]) -> Reach:
        """What is reached from outside.

        Args:
            open_: the addresses that a piece leads to, or None for all that it refers to.
        """
        reach = Reach()
        waiting: deque[tuple[int, int]] = deque((address, NOWHERE) for address in sorted(self.roots()))
        while waiting:
            address, source = waiting.popleft()
            piece = self.code.at(address)
            if piece != NOWHERE:
                if piece in reach.pieces:
                    continue
                reach.pieces[piece] = source
                found = open_(piece)
                waiting.extend((target, piece) for target in (self.targets(piece) if found is None else sorted(found)))
                continue
            start = self.object_at(address)
            if start is None or start in reach.objects:
                continue
            reach.objects.add(start)
            waiting.extend((target, source) for target in self.pointers.get(start, ()))
        return reach


@dataclass(slots=True)
class Reach:
    """What is reached, with the way to it."""

    pieces: dict[int, int] = field(default_factory=dict)
    """By piece the one from which it was first reached, or -1."""
    objects: set[int] = field(default_factory=set)

    def way(self, piece: int, limit: int = 3) -> list[int]:
        """The pieces that lead to one, that which is nearest to the outside first."""
        way: list[int] = []
        at = self.pieces.get(piece, NOWHERE)
        while at != NOWHERE and len(way) < limit:
            way.append(at)
            at = self.pieces[at]
        return way[::-1]


def read_graph(
    path: Path, data: Buffer, layout: Layout, code: CodeMap, given: CodePointers, *, team: WorkerPool
) -> Graph:
    """Find the references of a library.

    Args:
        path: the file.
        data: its bytes.
        layout: of it.
        code: its pieces.
        given: what the loader and others use of it.
        team: does the work.
    """
    loads = [s for s in layout.segments if s.type == PT_LOAD]
    bounds = tuple((s.address, s.address + s.memory_size) for s in loads)
    found: dict[int, array[int]] = {}
    through = set()
    for part in team.each(references, chunks(path, code), bounds):
        for index, addresses, on in part:
            found[index] = addresses
            if on:
                through.add(index)
    running = [(r.address, r.address + r.size) for r in regions(data, layout, str(path))]
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
    named = {value for _, value in given.stored} | given.given
    data_named = {a for a in named if code.at(a) == NOWHERE}
    sections = [s.address for s in layout.sections if s.address and s.size]
    starts = sorted({*users, *data_named, *sections, *chain.from_iterable((*bounds, *given.arrays))})
    objects = array("Q", starts)
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
        objects=objects,
        pointers={start: tuple(values) for start, values in pointers.items()},
        users={start: frozenset(pieces) for start, pieces in users.items()},
        callers={piece: frozenset(sources) for piece, sources in callers.items()},
        places=given.places,
        writable=tuple((s.address, s.address + s.memory_size) for s in loads if s.flags & PF_W and not s.flags & PF_X),
        pointed=frozenset(data_named),
    )


def _onward(code: CodeMap, found: Mapping[int, array[int]], piece: int) -> int:
    """The address that a piece runs into, behind padding."""
    address = code.ends[piece]
    while (following := code.at(address)) != NOWHERE and following not in found:
        address = code.ends[following]
    return address


def _inside(address: int, ranges: Iterable[tuple[int, int]]) -> bool:
    return any(low <= address < high for low, high in ranges)


def word(data: Buffer, layout: Layout, address: int, size: int) -> bytes | None:
    """The bytes at an address of a file as it is loaded; None outside of it."""
    for part in layout.segments:
        if part.type == PT_LOAD and part.address <= address and address + size <= part.address + part.memory_size:
            at = address - part.address
            held = bytes(data[part.offset + min(at, part.file_size) : part.offset + min(at + size, part.file_size)])
            return held + bytes(size - len(held))
    return None
