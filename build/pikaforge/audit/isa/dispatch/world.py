"""A library on a CPU without a feature: what asks the CPU is run, until what it leaves in memory does not change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from pikaforge.audit.isa.dispatch import flow
from pikaforge.audit.isa.dispatch import values as v
from pikaforge.audit.isa.dispatch.graph import word
from pikaforge.audit.isa.dispatch.library import Library
from pikaforge.audit.isa.dispatch.state import Exhausted, Summary, Trace
from pikaforge.audit.isa.dispatch.steps import ARGUMENTS, NONE, RIP
from pikaforge.audit.isa.dispatch.values import UNKNOWN, Value
from pikaforge.audit.isa.ranges import NOWHERE
from pikaforge.cpu import features

ASKING = 512
"""Functions that are run, at most: more than that do not ask the CPU."""
WORK = 2_000_000
"""Instructions that are run for one library, again and again those that are come to in other states: 20 s or so."""
DEPTH = 4
"""Calls within calls that are run with what they are called with."""
ROUNDS = 24
"""After which what is in memory must not change any more."""
CONTEXTS = 64
"""Different arguments with which one function is run."""
CASES = 8
"""Ways in which memory may be found, that are looked at one by one."""
CELL = 8
"""Bytes of the widest register that is followed."""
WIDEST = 64
"""Bytes of the widest one there is."""
SHARED = 64
"""Functions that use one object, at most: more than that do not ask the CPU."""


def absent(feature: str) -> dict[tuple[int, int | None], dict[str, int]]:
    """The bits that CPUID does not set on a CPU without a feature, by leaf, part and register.

    What no CPU has without the feature is not there, either: who asks for AVX2 may use AVX.
    """
    found: dict[tuple[int, int | None], dict[str, int]] = {}
    for name in features.needing(feature):
        for bit in features.table()[name].cpuid:
            register = found.setdefault((bit.leaf, bit.part), {})
            register[bit.register] = register.get(bit.register, 0) | 1 << bit.number
    return found


@dataclass(slots=True)
class _Cell:
    """A byte of data that the program may change: what is known of all that is written to it."""

    known: int
    bits: int


class World:
    """A library on a CPU without a feature: what asks the CPU, and what it leaves in memory (`flow.Surroundings`)."""

    def __init__(self, library: Library, feature: str, wanted: Set[int], *, work: int = WORK) -> None:
        self.problem = ""
        self.work = work
        """Instructions that may still be run."""
        self._wanted = wanted
        self._library, self._graph, self._code = library, library.graph, library.code
        self._absent = absent(feature)
        self._asking: set[int] = set(library.asking)
        """Pieces that are run."""
        self._traces: dict[int, dict[tuple[Value, ...], Trace]] = {}
        """What they did, by piece and arguments."""
        self._apart: set[int] = set()
        """Those that are run by themselves, because calls of them were too deep."""
        self._active: set[tuple[int, tuple[Value, ...]]] = set()
        self._cells: dict[int, _Cell] = {}
        self._lost: set[int] = set()
        """Objects to which something writes that is not followed."""
        self._read: set[int] = set()
        self._stored: set[int] = set()
        """Objects that what is run reads, and writes to."""
        self._written: dict[tuple[int, int], set[int | None]] = {}
        """What is written by address and bytes; None for what is not known."""
        self._given: Mapping[tuple[int, int], int] = {}
        self._loaded: set[tuple[int, int]] = set()
        """What is taken to be in memory when the function that is run starts, and what it has read."""
        self._others: set[int] = set()
        """Objects whose other users were looked at."""
        self._held: dict[int, set[int]] = {}
        """Bytes of which something is known, by object."""
        self._changed = False

    def settle(self) -> None:
        """Run what asks the CPU until nothing changes any more."""
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
        """As `Surroundings.spend`."""
        self.work -= steps
        if self.work < 0:
            raise Exhausted

    def open(self, piece: int) -> set[int] | None:
        """The addresses that a piece leads to; None if it was not run."""
        traces = self._traces.get(piece)
        return set().union(*(trace.references for trace in traces.values())) if traces else None

    def done(self, piece: int) -> set[int] | None:
        """The instructions of a piece that are come to; None if it was not run."""
        traces = self._traces.get(piece)
        return set().union(*(trace.steps for trace in traces.values())) if traces else None

    # ---- what is run

    def _alone(self, piece: int) -> bool:
        """Whether a function must be run with arguments that are not known: not all its callers are run."""
        start = self._code.starts[piece]
        sources = self._graph.callers.get(piece, frozenset())
        return (
            not sources
            or piece in self._apart
            or piece in self._library.pointed
            or any(s not in self._asking or address != start or not self._calls(s, start) for s, address in sources)
        )

    def _calls(self, source: int, start: int) -> bool:
        """Whether all that one piece does with another is to call it, or to end with it."""
        code = self._library.body(source)
        return code.sound and not any(
            o.kind == "m" and o.register == RIP and o.value == start for step in code.steps for o in step.operands
        )

    def _grow(self) -> None:
        """Take in who uses what the CPU has said: callers of what asks it, readers of what keeps the answer."""
        more: set[int] = set()
        for piece in self._asking:
            traces = self._traces.get(piece, {}).values()
            if piece in self._library.asking or any(_tells(trace.summary) for trace in traces):
                more |= {source for source, _ in self._graph.callers.get(piece, ())}
        for start in self._stored:
            if self._followed(start) and any(self._cells[a].known for a in self._held.get(start, ())):
                more |= self._graph.users.get(start, frozenset())
        for start in self._read & self._stored:  # others that know where the answer is kept
            users = {p for s in self._near(start) for p in self._graph.users.get(s, ())}
            if len(users) <= SHARED:
                more |= users
        more |= self._between()
        if more - self._asking:
            self._changed = True
            self._asking |= more
        if len(self._asking) > ASKING:
            self.problem = "more of it asks the CPU than is followed here"

    def _between(self) -> set[int]:
        """Functions that only what is run calls, and that lead to what is looked for: they may be given the answer."""
        found: set[int] = set()
        targets = set(self._wanted)
        for _ in range(DEPTH):
            sources = {source for piece in targets for source, _ in self._graph.callers.get(piece, ())}
            targets = sources - self._asking - found - self._wanted
            found |= {
                piece
                for piece in targets
                if (callers := self._graph.callers.get(piece)) and all(s in self._asking for s, _ in callers)
            }
        return found

    def _run(self, piece: int, arguments: tuple[Value, ...]) -> Trace | None:
        """What a piece does; None if it cannot be run."""
        if not self._library.body(piece).sound:
            return None
        contexts = self._traces.setdefault(piece, {})
        if len(contexts) >= CONTEXTS and arguments not in contexts:
            arguments = ()
        if arguments in contexts:
            return contexts[arguments]
        if (piece, arguments) in self._active:  # what it does, the call that is under way does
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
        """What a piece does, and what it reads in the file, given what is there when it starts."""
        before = self._given, self._loaded
        self._given, self._loaded = given, set()
        trace = flow.run(
            self._library.body(piece),
            self,
            arguments=arguments,
            entries=() if arguments else self._library.entries(piece),
            loose=self._code.starts[piece] not in self._code.plain,
        )
        loaded = self._loaded
        self._given, self._loaded = before
        return trace, loaded

    def _guesses(self, loaded: set[tuple[int, int]]) -> list[dict[tuple[int, int], int]]:
        """What may be in memory that a piece reads, case by case: -1 until the CPU was asked, then 0."""
        cases: list[dict[tuple[int, int], int]] = [{}]
        for key in sorted(loaded):
            values = self._choices(*key)
            if len(values) > 1:
                cases = [{**case, key: value} for case in cases for value in sorted(values)]
            if len(cases) > CASES:
                return []
        return cases if len(cases) > 1 else []

    # ---- what they leave in memory

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
        """Take what is written to memory."""
        for number in range(size):
            part = v.shifted_right(value, 8 * number, 8, sign=False) if number < CELL else UNKNOWN
            self._join(address + number, part)
        known, values = v.known_number(value, size), self._written.setdefault((address, size), set())
        if known not in values:
            values.add(known)
            self._changed = True

    def _choices(self, address: int, size: int) -> set[int]:
        """All numbers that may be at an address; none if that is not known."""
        first = word(self._library.data, self._library.layout, address, size)
        if first is None or not self._graph.places.isdisjoint(range(address - 7, address + size)):
            return set()
        found: set[int | None] = {int.from_bytes(first, "little")}
        for (place, length), values in self._written.items():
            if place < address + size and address < place + length:
                found |= values if (place, length) == (address, size) else {None}
        return set() if None in found else {number for number in found if number is not None}

    def _lose(self, start: int) -> None:
        if start not in self._lost:
            self._lost.add(start)
            self._changed = True

    def _join(self, address: int, value: Value) -> None:
        known = value[1] & 0xFF if value[0] is None else 0
        cell = self._cell(address)
        same = cell.known & known & ~(cell.bits ^ value[2])
        if same != cell.known:
            cell.known, cell.bits = same, cell.bits & same
            self._changed = True

    def _cell(self, address: int) -> _Cell:
        """A byte; at first as the file has it."""
        if address not in self._cells:
            raw = word(self._library.data, self._library.layout, address, 1)
            moved = not self._graph.places.isdisjoint(range(address - 7, address + 1))
            self._cells[address] = _Cell(0, 0) if raw is None or moved else _Cell(0xFF, raw[0])
            self._held.setdefault(self._graph.object_at(address) or 0, set()).add(address)
        return self._cells[address]

    def _followed(self, start: int) -> bool:
        """Whether all that is written to an object is known: nobody else has its address, or writes to it."""
        if start in self._lost or start in self._graph.pointed or start in self._graph.pointers:
            return False
        if start not in self._others:
            self._others.add(start)
            users = {p for s in self._near(start) for p in self._graph.users.get(s, ())}
            for piece in users:
                if piece not in self._asking or not self._library.body(piece).sound:
                    self._stranger(piece, start, self._graph.object_end(start))
        return start not in self._lost

    def _near(self, start: int) -> Iterable[int]:
        """An object, and those before it from which it may be written to."""
        return self._graph.objects_between(max(start - WIDEST, 0), self._graph.object_end(start))

    def _stranger(self, piece: int, start: int, end: int) -> None:
        """Take what a piece writes to an object that is not run itself."""
        code = self._library.body(piece)
        if not code.sound:
            self._lose(start)
        for step in code.steps:
            for operand in step.operands:
                if operand.kind != "m" or operand.register != RIP:
                    continue
                if operand.value >= end or operand.value + max(operand.size, 1) <= start:
                    continue
                if step.name == "LEA" or operand.index_register != NONE:
                    self._lose(start)
                elif step.stores:
                    given = step.operands[-1]
                    value = v.number(given.value) if step.name == "MOV" and given.kind == "i" else UNKNOWN
                    self._put(operand.value, operand.size, value)

    # ---- what functions see (flow.Surroundings)

    def answer(self, leaf: int | None, part: int | None) -> Mapping[str, int]:
        """As `Surroundings.answer`."""
        if leaf is None:
            return {}
        return self._absent.get((leaf, None)) or self._absent.get((leaf, part)) or {}

    def names(self, address: int) -> bool:
        """As `Surroundings.names`."""
        return self._code.at(address) != NOWHERE or self._graph.object_at(address) is not None

    def load(self, address: int, size: int, *, first: bool) -> Value:
        """As `Surroundings.load`."""
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
        """As `Surroundings.call`."""
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
    """Whether a call brings something that is known."""
    values = [summary.returns, *(value for _, value in (summary.out or {}).values())]
    return any(value is not None and value[0] is None and value[1] for value in values)
