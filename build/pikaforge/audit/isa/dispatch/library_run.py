"""Run the functions of a library that ask the CPU, in an abstract way, on a CPU that lacks a feature.

The functions that execute cpuid or xgetbv are run first, then those that use their results. What they write to the
library's data is collected from all of them, byte by byte. The whole is repeated until nothing changes (a fixed point).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from pikaforge.audit.elf.layout import ET_EXEC
from pikaforge.audit.isa.dispatch import flow
from pikaforge.audit.isa.dispatch import values as v
from pikaforge.audit.isa.dispatch.graph import word
from pikaforge.audit.isa.dispatch.library import Library
from pikaforge.audit.isa.dispatch.small_helpers import small_helpers
from pikaforge.audit.isa.dispatch.state import Exhausted, Summary, Trace
from pikaforge.audit.isa.dispatch.steps import ARGUMENTS, NONE, RIP, InstructionStep, Operand
from pikaforge.audit.isa.dispatch.values import UNKNOWN, Value
from pikaforge.audit.isa.ranges import NOWHERE
from pikaforge.cpu import features

ASKING = 512
"""The most functions that are run: in no library do so many use the CPU's answers."""
WORK = 400_000
"""The most instructions that are run for one library, in all states: about 4 s. Libraries that are proven take less."""
DEPTH = 4
"""The depth of nested calls up to which a function is run with the arguments of the call."""
ROUNDS = 24
"""The most rounds until the content of memory must not change any more."""
CONTEXTS = 64
"""The most different arguments with which one function is run."""
CASES = 8
"""The most different contents of memory with which one function is run."""
CELL = 8
"""Bytes of the widest register whose value is tracked."""
WIDEST = 64
"""Bytes of the widest register of any kind: a store may begin so far before an object."""
SHARED = 64
"""Functions that may use an object which keeps the CPU's answer; an object with more users keeps something else."""


@dataclass(slots=True)
class _Cell:
    """A byte of data that the program may change: the bits that all values have in common which it may hold."""

    known: int
    bits: int


class LibraryRun:
    """The abstract run of a library on a CPU that lacks a feature. It is the `Environment` of its functions."""

    def __init__(self, library: Library, feature: str, wanted: Set[int], *, work: int = WORK) -> None:
        """Run nothing yet.

        Args:
            library: the library.
            feature: id of the feature that the CPU lacks.
            wanted: pieces with code that needs the feature.
            work: how many instructions may be run.
        """
        self.problem = ""
        """Why the run has no result; empty if it has one."""
        self.work = work
        """The number of instructions that may still be run."""
        self._wanted = wanted
        self._library, self._graph, self._code = library, library.graph, library.code
        self.fixed = library.layout.type == ET_EXEC
        self._absent = features.absent_bits(feature)
        self._asking = small_helpers(library) | library.asking
        """Pieces that are run."""
        self._traces: dict[int, dict[tuple[Value, ...], Trace]] = {}
        """What they may do, by piece and arguments."""
        self._apart: set[int] = set()
        """Pieces that are also run without arguments, because calls of them were nested too deep."""
        self._active: set[tuple[int, tuple[Value, ...]]] = set()
        """Pieces and arguments whose run is under way."""
        self._cells: dict[int, _Cell] = {}
        """Bytes of data, by address."""
        self._lost: set[int] = set()
        """Objects whose content is unknown, because something may write to them that is not run."""
        self._read: set[int] = set()
        """Objects that the pieces read."""
        self._stored: set[int] = set()
        """Objects that the pieces write to."""
        self._written: dict[tuple[int, int], set[int | None]] = {}
        """Numbers that are written, by address and number of bytes; None for an unknown one."""
        self._given: Mapping[tuple[int, int], int] = {}
        """The assumed content of memory at the start of the function that is run; see `_guesses`."""
        self._loaded: set[tuple[int, int]] = set()
        """The memory that the function that is run has read."""
        self._others: set[int] = set()
        """Objects whose users that are not run were looked at."""
        self._held: dict[int, set[int]] = {}
        """Addresses in `_cells`, by object."""
        self._changed = False

    def settle(self) -> None:
        """Run all functions that ask the CPU or use its answers, until nothing changes any more."""
        if not self._asking or not self._absent:
            return
        try:
            for _ in range(ROUNDS):
                self._changed = False
                self._traces = {}
                for piece in sorted(self._asking):
                    if self._alone(piece):
                        self._run(piece, ())
                self._grow()
                if self.problem or not self._changed:
                    return
        except Exhausted:
            self.problem = "it takes too long to follow how it asks the CPU"
            return
        self.problem = "what it keeps of the CPU's answers does not settle"

    def spend(self, steps: int) -> None:
        """See `Environment.spend`."""
        self.work -= steps
        if self.work < 0:
            raise Exhausted

    def open(self) -> dict[int, set[int]]:
        """Return the addresses that the pieces lead to that were run."""
        held = self._traces.items()
        return {piece: set().union(*(t.references for t in traces.values())) for piece, traces in held if traces}

    def done(self, piece: int) -> set[int] | None:
        """Return the addresses of the instructions that a piece may run; None if it was not run."""
        traces = self._traces.get(piece)
        return set().union(*(trace.steps for trace in traces.values())) if traces else None

    # ---- the functions that are run

    def _alone(self, piece: int) -> bool:
        """Return whether a function must be run with unknown arguments, because not all its callers are run."""
        start = self._code.starts[piece]
        sources = self._graph.callers.get(piece)
        return (
            not sources
            or piece in self._apart
            or self._graph.is_pointed(piece)
            or any(s not in self._asking or address != start or not self._calls(s, start) for s, address in sources)
        )

    def _calls(self, source: int, start: int) -> bool:
        """Return whether a piece uses another one only by calls or jumps, and does not take its address."""
        code = self._library.body(source)
        return code.sound and not any(
            o.value == start and (o.kind == "i" or o.register == RIP) for step in code.steps for o in step.operands
        )

    def _grow(self) -> None:
        """Add the functions that use the CPU's answers: callers of those that ask, users of data with answers."""
        more: set[int] = set()
        for piece in self._asking:
            traces = self._traces.get(piece, {}).values()
            if piece in self._library.asking or any(_tells(trace.summary) for trace in traces):
                more |= {source for source, _ in self._graph.callers.get(piece)}
        for start in self._stored:
            if self._followed(start) and any(self._cells[a].known for a in self._held.get(start, ())):
                more.update(self._graph.users.get(start))
        for start in self._read & self._stored:  # other functions that use an object with the answer
            users = {p for s in self._near(start) for p in self._graph.users.get(s)}
            if len(users) <= SHARED:
                own, end = self._graph.users.get(start), self._graph.object_end(start)
                more |= {p for p in users if p in own or any(self._uses(p, start, end))}
        more |= self._between() | self._naming()
        if more - self._asking:
            self._changed = True
            self._asking |= more
        if len(self._asking) > ASKING:
            self.problem = "more of it asks the CPU than is followed here"

    def _between(self) -> set[int]:
        """Return functions between those that are run and the wanted pieces: they may get the answer as an argument."""
        found, targets = set[int](), set(self._wanted)
        for _ in range(DEPTH):
            sources = {source for piece in targets for source, _ in self._graph.callers.get(piece)}
            targets = sources - self._asking - found - self._wanted
            found |= {
                piece
                for piece in targets
                if (callers := self._graph.callers.get(piece)) and all(s in self._asking for s, _ in callers)
            }
        return found

    def _naming(self) -> set[int]:
        """Return functions that take the address of a wanted piece: they may only compare a pointer with it."""
        found = set()
        for piece in self._wanted:
            start = self._code.starts[piece]
            for source, address in self._graph.callers.get(piece):
                if address == start and source not in self._wanted and not self._calls(source, start):
                    found.add(source)
        return found if len(found) <= SHARED else set()

    def _run(self, piece: int, arguments: tuple[Value, ...]) -> Trace | None:
        """Return what a piece may do with some arguments; None if it cannot be run."""
        if not self._library.body(piece).sound:
            return None
        contexts = self._traces.setdefault(piece, {})
        if len(contexts) >= CONTEXTS and arguments not in contexts:
            arguments = ()
        if arguments in contexts:
            return contexts[arguments]
        if (piece, arguments) in self._active:  # recursion: the outer run collects what it does
            return None
        self._active.add((piece, arguments))
        trace, loaded = self._flow(piece, arguments, {})
        cases = self._guesses(loaded)
        if cases:
            trace = Trace()
            for given in cases:
                trace.add(self._flow(piece, arguments, given)[0])
        self._active.discard((piece, arguments))
        contexts[arguments] = trace
        self._write(trace)
        return trace

    def _flow(
        self, piece: int, arguments: tuple[Value, ...], given: Mapping[tuple[int, int], int]
    ) -> tuple[Trace, set[tuple[int, int]]]:
        """Return what a piece may do, and the memory that it reads; `given` is the assumed content of memory."""
        before = self._given, self._loaded
        self._given, self._loaded = given, set()
        trace = flow.run(
            self._library.body(piece),
            self,
            arguments=arguments,
            entries=() if arguments else self._library.entries(piece),
            loose=self._code.starts[piece] not in self._code.plain,
            pair=self._code.starts[piece] not in self._graph.resolvers,
        )
        loaded = self._loaded
        self._given, self._loaded = before
        return trace, loaded

    def _guesses(self, loaded: set[tuple[int, int]]) -> list[dict[tuple[int, int], int]]:
        """Return the contents that the memory which a piece reads may have, one case for each; empty if one is enough.

        For example, a word is -1 until the CPU was asked, and 0 afterwards: a run for each case is more exact than one
        for a word of unknown bits.
        """
        cases: list[dict[tuple[int, int], int]] = [{}]
        for key in sorted(loaded):
            values = self._choices(*key)
            if len(values) > 1:
                cases = [{**case, key: value} for case in cases for value in sorted(values)]
            if len(cases) > CASES:
                return []
        return cases if len(cases) > 1 else []

    # ---- what they write to the library's data

    def _write(self, trace: Trace) -> None:
        for address in trace.handed:
            start = self._graph.object_at(address)
            if start is not None and self._graph.is_writable(start):
                self._lose(start)
        for address, size, value in trace.stores:
            start = self._graph.object_at(address)
            if start is not None:
                self._stored.add(start)
            self._put(address, size, value)

    def _put(self, address: int, size: int, value: Value) -> None:
        """Record that a value may be written to an address."""
        for number in range(size):
            part = v.shifted_right(value, 8 * number, 8, sign=False) if number < CELL else UNKNOWN
            self._join(address + number, part)
        values = self._written.setdefault((address, size), set())
        self._changed |= (known := v.known_number(value, size)) not in values
        values.add(known)

    def _choices(self, address: int, size: int) -> set[int]:
        """Return all numbers that may be at an address; none if that is not known."""
        first = word(self._library.data, self._library.layout, address, size)
        if first is None or self._graph.places.any_between(address - 7, address + size):
            return set()
        found: set[int | None] = {int.from_bytes(first, "little")}
        for (place, length), values in self._written.items():
            if place < address + size and address < place + length:
                found |= values if (place, length) == (address, size) else {None}
        return set() if None in found else {number for number in found if number is not None}

    def _lose(self, start: int) -> None:
        self._changed |= start not in self._lost
        self._lost.add(start)

    def _join(self, address: int, value: Value) -> None:
        known = value[1] & 0xFF if value[0] is None else 0
        cell = self._cell(address)
        same = cell.known & known & ~(cell.bits ^ value[2])
        if same != cell.known:
            cell.known, cell.bits = same, cell.bits & same
            self._changed = True

    def _cell(self, address: int) -> _Cell:
        """Return a byte of memory; at first it has the file's content."""
        if address not in self._cells:
            raw = word(self._library.data, self._library.layout, address, 1)
            moved = self._graph.places.any_between(address - 7, address + 1)
            self._cells[address] = _Cell(0, 0) if raw is None or moved else _Cell(0xFF, raw[0])
            self._held.setdefault(self._graph.object_at(address) or 0, set()).add(address)
        return self._cells[address]

    def _followed(self, start: int) -> bool:
        """Return whether all writes to an object are known: no other code has its address, or they are looked at."""
        if start in self._lost or start in self._graph.pointed or start in self._graph.pointers:
            return False
        if start not in self._others:
            self._others.add(start)
            users = {p for s in self._near(start) for p in self._graph.users.get(s)}
            for piece in users:
                if piece not in self._asking or not self._library.body(piece).sound:
                    self._stranger(piece, start, self._graph.object_end(start))
        return start not in self._lost

    def _near(self, start: int) -> Iterable[int]:
        """Return an object, and those before it at which a store into it may begin."""
        return self._graph.objects_between(max(start - WIDEST, 0), self._graph.object_end(start))

    def _stranger(self, piece: int, start: int, end: int) -> None:
        """Record what a piece that is not run itself may write to an object."""
        code = self._library.body(piece)
        if not code.sound:
            self._lose(start)
        for step, operand in self._uses(piece, start, end):
            if step.name == "LEA" or operand.kind == "i" or operand.index_register != NONE:
                self._lose(start)
            elif step.stores:
                given = step.operands[-1]
                value = v.number(given.value) if step.name == "MOV" and given.kind == "i" else UNKNOWN
                self._put(operand.value, operand.size, value)

    def _uses(self, piece: int, start: int, end: int) -> Iterator[tuple[InstructionStep, Operand]]:
        """Yield the operands of a piece that are, or may be, a fixed place between two addresses, or reach into it."""
        bases = (RIP, NONE) if self.fixed else (RIP,)
        for step in self._library.body(piece).steps:
            for o in step.operands:
                named = o.register in bases if o.kind == "m" else self.fixed and o.kind == "i"
                if named and o.value < end and o.value + max(o.size if o.kind == "m" else 1, 1) > start:
                    yield step, o

    # ---- the environment of functions that are run

    def answer(self, leaf: int | None, part: int | None) -> Mapping[str, int]:
        """See `Environment.answer`."""
        return features.zero_bits(self._absent, leaf, part)

    def names(self, address: int) -> bool:
        """See `Environment.names`."""
        return self._code.at(address) != NOWHERE or self._graph.object_at(address) is not None

    def load(self, address: int, size: int, *, first: bool) -> Value:
        """See `Environment.load`."""
        start = self._graph.object_at(address)
        if start is None or size > CELL or not self._graph.is_writable(address):
            return UNKNOWN
        held = [start, *self._graph.objects_between(address + 1, address + size)]
        self._read.update(held)
        if not all(self._followed(part) for part in held):
            return UNKNOWN
        self._loaded.add((address, size))
        if first and (address, size) in self._given:
            return v.number(self._given[address, size])
        known = bits = 0
        for number in range(size):
            cell = self._cell(address + number)
            known |= cell.known << 8 * number
            bits |= cell.bits << 8 * number
        return (None, known | v.ALL & ~v.mask(size), bits, v.NO_ADDRESSES)

    def call(self, target: int, arguments: Sequence[Value]) -> Summary | None:
        """See `Environment.call`."""
        target = self._graph.through_stub(target)
        piece = self._code.at(target)
        if piece not in self._asking or self._code.starts[piece] != target:
            return None
        used = self._library.arguments(piece)
        given = tuple(
            value if register in used and value[0] is None else UNKNOWN
            for register, value in zip(ARGUMENTS, arguments, strict=True)
        )
        if len(self._active) < DEPTH:
            trace = self._run(piece, given)
            return None if trace is None else trace.summary
        if piece not in self._apart:
            self._apart.add(piece)
            self._changed = True
        return None


def _tells(summary: Summary) -> bool:
    """Return whether a call returns or writes something that is known."""
    values = [summary.returns, *(value for _, value in (summary.out or {}).values())]
    return any(value is not None and value[0] is None and value[1] for value in values)
