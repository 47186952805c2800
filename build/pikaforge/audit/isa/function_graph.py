"""Read the instructions of one function, and what may follow each of them.

The code is decoded from the function's start to its end, and along jumps out of it: gcc puts unlikely code elsewhere,
which jumps back. Targets of jumps through a table are read from the table.

What is assumed: other code enters the function only at its start, or through what the function itself leads to; and a
handler of exceptions is not also reached by a jump.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pikaforge.audit.elf.executable import Region
from pikaforge.audit.elf.layout import Buffer, Layout
from pikaforge.audit.isa.dispatch.steps import NONE, PADDING, RIP, InstructionStep, body

STEPS = 6000
"""Instructions of a function that are read; of longer ones nothing is known."""
PIECE_BYTES, PART_BYTES = 32 << 10, 128
"""Bytes of a function that are read, and bytes that are read at once where a jump leads out of it."""
ENTRIES = 2048
"""Entries of a table of jumps that are read."""


class Code:
    """The code of a file by virtual address."""

    def __init__(self, data: Buffer, layout: Layout, regions: Iterable[Region]) -> None:
        self._data = data
        self._layout = layout
        self._regions = tuple(regions)

    def read(self, start: int, size: int) -> bytes:
        """Return at most `size` bytes of code from an address on; none where there is no code."""
        for region in self._regions:
            if region.address <= start < region.address + region.size:
                at = region.offset + start - region.address
                return self._data[at : min(at + size, region.offset + region.size)]
        return b""

    def holds(self, address: int) -> bool:
        """Return whether there is code at an address."""
        return any(r.address <= address < r.address + r.size for r in self._regions)

    def table(self, address: int, size: int) -> Iterator[int]:
        """Yield the addresses in a table of jumps: of 4 bytes relative to the table, or of 8 bytes."""
        at = self._layout.offset_of(address)
        if at is None:
            return
        raw = self._data[at : at + ENTRIES * size]
        for (entry,) in struct.iter_unpack("<i" if size == 4 else "<Q", raw[: len(raw) // size * size]):
            target = entry + address if size == 4 else entry
            if not self.holds(target):
                return
            yield target


@dataclass(slots=True)
class FunctionGraph:
    """The instructions of a function, and what may follow each of them."""

    steps: dict[int, InstructionStep] = field(default_factory=dict)
    roots: set[int] = field(default_factory=set)
    """Addresses that may be reached from where nothing is known of."""
    before: dict[int, set[int]] = field(default_factory=dict)
    """Addresses of the instructions that may precede one, for those where ways meet or a branch leads to."""
    known: bool = True
    """Whether all ways are known; a jump may lead anywhere otherwise."""


def following(step: InstructionStep) -> tuple[int, ...]:
    """Return the addresses that an instruction leads to within its function; after a branch first its target."""
    if step.flow == "branch":
        return step.target, step.following
    if step.flow == "jump":
        return (step.target,)
    return (step.following,) if step.flow in ("next", "call", "call?") else ()


def read_graph(code: Code, start: int, end: int) -> FunctionGraph:
    """Read a function that lies at [start, end)."""
    graph = FunctionGraph()
    if end - start > PIECE_BYTES:
        graph.known = False
        return graph
    graph.steps.update((s.address, s) for s in body(code.read(start, end - start), start).steps if s.name != "INVALID")
    waiting = list(graph.steps.values())
    while waiting:
        step = waiting.pop()
        targets = following(step) if step.flow in ("jump", "branch") or not start <= step.address < end else ()
        for target in targets:
            if target not in graph.steps and len(graph.steps) < STEPS:
                waiting += _part(code, graph, target)
    graph.known = len(graph.steps) < STEPS
    _tables(code, graph)
    for step in graph.steps.values():
        for target in following(step):
            graph.before.setdefault(target, set()).add(step.address)
        if step.flow == "call":
            graph.roots.add(step.target)
    graph.roots.add(start)
    _enter(graph)
    return graph


def _enter(graph: FunctionGraph) -> None:
    """Add the instructions that nothing leads to, as handlers of exceptions, to the roots, but for padding."""
    for address in sorted(graph.steps):
        if graph.before.get(address) or address in graph.roots:
            continue
        step = graph.steps[address]
        if step.name not in PADDING:
            graph.roots.add(address)
            continue
        for target in following(step):
            graph.before[target].discard(address)


def _part(code: Code, graph: FunctionGraph, start: int) -> list[InstructionStep]:
    """Add the instructions from an address to the next one that leads away; return them."""
    added = []
    for step in body(code.read(start, PART_BYTES), start).steps:
        if step.name == "INVALID" or step.address in graph.steps:
            break
        graph.steps[step.address] = step
        added.append(step)
        if step.flow not in ("next", "branch", "call", "call?"):
            break
    return added


def _tables(code: Code, graph: FunctionGraph) -> None:
    """Add the targets of jumps through tables to the roots."""
    jumps = [s for s in graph.steps.values() if s.flow == "jump?" and _through_table(s)]
    if not jumps:
        return
    tables = set()
    for step in graph.steps.values():
        for operand in step.operands:
            if operand.kind == "m" and operand.register == RIP:
                if step.name == "LEA" and operand.index_register == NONE:
                    tables |= {(operand.value, 4), (operand.value, 8)}
                elif operand.index_register != NONE and operand.scale == 8:
                    tables.add((operand.value & 0xFFFFFFFF, 8))
    found: set[int] = set()
    for address, size in tables:
        found |= {target for target in code.table(address, size) if target in graph.steps}
    graph.roots |= found
    if not found and (tables or any(s.operands[0].kind == "m" for s in jumps)):
        graph.known = False


def _through_table(step: InstructionStep) -> bool:
    """Return whether an indirect jump may go through a table: others are calls at the end of a function."""
    return bool(step.operands) and (step.operands[0].kind == "r" or step.operands[0].index_register != NONE)
