"""A library during the search for evidence: its bytes, references and instructions, each read once."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from itertools import chain

from pikaforge.audit.elf.layout import Buffer, Layout
from pikaforge.audit.isa.cuts import Cuts
from pikaforge.audit.isa.dispatch.copies import with_copies
from pikaforge.audit.isa.dispatch.flags import Answers, answers_of
from pikaforge.audit.isa.dispatch.graph import Graph
from pikaforge.audit.isa.dispatch.steps import Block, Body, body
from pikaforge.audit.isa.ranges import GAP

KEPT = 64
"""Bytes of the largest array or structure in which a library keeps the CPU's answers."""
NAMED = 64
"""The most places of data that a caller names of a function that asks the CPU, if the answers may be at these places: a
larger one, such as the initialisation of all of a program, keeps other things there."""
READERS = 2048
"""The most functions that use an answer of the CPU: what more of them use is a table of functions, or the like."""
BODY, BODIES = 256 << 10, 8 << 20
"""The most bytes of one function, and of all functions, that are decoded: a byte of code takes 500 bytes of memory."""

WORD = 8
"""Bytes of a pointer."""
WIDE = 4
"""Bytes of the smallest write to a register that changes all of it."""


class Library:
    """A library and what has been decoded of it."""

    def __init__(self, data: Buffer, layout: Layout, graph: Graph, asking: frozenset[int]) -> None:
        """Decode nothing yet.

        Args:
            data: the file.
            layout: its layout.
            graph: its references.
            asking: indexes of the pieces that run cpuid or xgetbv.
        """
        self.data, self.layout, self.graph, self.code, self.asking = data, layout, graph, graph.code, asking
        self._bodies: dict[int, Body] = {}
        self._starts: dict[int, set[int]] = {}
        self._kept = 0
        self._arguments: dict[int, frozenset[int]] = {}
        self._outward: dict[int, set[int] | None] = {}
        self._cuts = Cuts(data, self.code)

    def body(self, piece: int) -> Body:
        """Return the instructions of a piece.

        Of a piece that is too large, or that is entered before its first instruction, there is a body without any
        instruction, which is not sound.
        """
        if piece not in self._bodies:
            code = self.code
            start, end = code.starts[piece], code.ends[piece]
            self._kept += end - start
            if end - start > BODY or self._kept > BODIES:
                self._bodies[piece] = body(b"", start)
            else:
                begin, entries = self._cuts.begin(piece), self.entries(piece)
                raw = self._cuts.raw(piece) if all(entry > begin for entry in entries) else b""
                self._bodies[piece] = body(raw, begin, entries)
        return self._bodies[piece]

    @property
    def is_half_decoded(self) -> bool:
        """Whether half of what may be decoded is: the rest is for the functions that lead to newer code."""
        return self._kept > BODIES // 2

    def arguments(self, piece: int) -> frozenset[int]:
        """Return the registers that a block of a piece reads before it sets them: no other argument matters to it."""
        if piece not in self._arguments:
            body = self.body(piece)
            self._arguments[piece] = frozenset(chain.from_iterable(_exposed(body, block) for block in body.blocks))
        return self._arguments[piece]

    def entries(self, piece: int) -> tuple[int, ...]:
        """Return the addresses in a piece, beside its start, that other code or data refers to.

        Tables between functions look like code that jumps into instructions. Such a jump counts if the code that other
        pieces refer to leads to it.
        """
        callers = self.graph.callers.get(piece)
        if any(self.code.kinds[source] == GAP for source, _ in callers):
            whole = self._boundaries(piece)
            callers = frozenset(
                (source, address)
                for source, address in callers
                if self.code.kinds[source] != GAP or address in whole or self._leads(source, address)
            )
        places = {address for _, address in callers} | self.graph.pointed_in(piece)
        return tuple(sorted(places - {self._cuts.begin(piece)}))

    @cached_property
    def answers(self) -> Answers:
        """Where the library keeps the CPU's answers."""
        users = {source for piece in self.asking for source, _ in self.graph.callers.get(piece)}
        near = users | self.asking
        named: set[int] = set()
        for piece in near:
            own = {a for a in self.graph.references.get(piece) if self.graph.is_writable(a)}
            named |= own if piece in self.asking or len(own) <= NAMED else set()
        places = {place for address in named for place in range(address, address + KEPT)}
        # Beside a pointer that the loader writes there are pointers to other things.
        places -= {p for p in places - named if self.graph.places.any_between(p - WORD + 1, p + 1)}
        places -= {place for place in places if len(self.graph.users.get(place)) > READERS}
        readers = {piece for address in places for piece in self.graph.users.get(address)}
        functions = {self.code.starts[piece] for piece in near | readers}
        functions |= {stub for stub in self.graph.stubs if self.graph.through_stub(stub) in functions}
        found = answers_of(map(self.body, sorted(self.asking)), map(self.body, sorted(users)), places, functions)
        return with_copies(found, self)

    def _leads(self, gap: int, address: int) -> bool:
        """Return whether the code of a gap that something refers to may lead to an address outside of it."""
        if gap not in self._outward:
            start, end, offset = self.code.starts[gap], self.code.ends[gap], self.code.offsets[gap]
            entries = {a for _, a in self.graph.callers.get(gap)} | self.graph.pointed_in(gap)
            raw = bytes(self.data[offset : offset + end - start]) if end - start <= BODY else None
            self._outward[gap] = None if raw is None else leading(raw, start, entries)
        found = self._outward[gap]
        return found is None or address in found

    def _boundaries(self, piece: int) -> set[int]:
        """Return the addresses of a piece's instructions."""
        from iced_x86 import Decoder  # noqa: PLC0415

        if piece not in self._starts:
            raw = self._cuts.raw(piece)[:BODY]
            self._starts[piece] = {step.ip for step in Decoder(64, raw, ip=self._cuts.begin(piece))}
        return self._starts[piece]


def _exposed(code: Body, block: Block) -> set[int]:
    """Return the registers that a block reads before it sets them."""
    found: set[int] = set()
    settled: set[int] = set()
    for step in code.steps[block.first : block.last]:
        found.update(register for register in step.reads if register not in settled)
        if step.name in ("MOV", "LEA") and step.operands[0].kind == "r" and step.operands[0].size >= WIDE:
            settled.add(step.operands[0].register)
    return found


def leading(raw: bytes, start: int, entries: Iterable[int]) -> set[int] | None:
    """Return the addresses outside of some bytes to which code in them leads; None if a jump in it is computed.

    Args:
        raw: the bytes.
        start: their address.
        entries: the addresses in them at which they are entered.
    """
    from iced_x86 import Decoder, FlowControl  # noqa: PLC0415

    ending = {FlowControl.RETURN, FlowControl.EXCEPTION, FlowControl.UNCONDITIONAL_BRANCH}
    found: set[int] = set()
    seen: set[int] = set()
    waiting = list(entries)
    while waiting:
        at = waiting.pop()
        if not start <= at < start + len(raw):
            found.add(at)
            continue
        following = at
        for step in Decoder(64, raw[at - start :], ip=at):
            if step.ip in seen or step.code == 0:
                following = start
                break
            seen.add(step.ip)
            if step.flow_control == FlowControl.INDIRECT_BRANCH:
                return None
            waiting += [
                a
                for a in (step.near_branch_target, step.memory_displacement if step.is_ip_rel_memory_operand else 0)
                if a
            ]
            following = step.next_ip
            if step.flow_control in ending:
                following = start
                break
        if following >= start + len(raw):
            found.add(following)
    return found
