"""A library during the search for evidence: its bytes, references and instructions, each read once."""

from __future__ import annotations

from itertools import chain

from pikaforge.audit.elf.layout import Buffer, Layout
from pikaforge.audit.isa.dispatch.graph import Graph
from pikaforge.audit.isa.dispatch.steps import Body, body
from pikaforge.audit.isa.ranges import GAP

BODY, BODIES = 256 << 10, 8 << 20
"""The most bytes of one function, and of all functions, that are decoded: a byte of code takes 500 bytes of memory."""


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
        self.pointed: dict[int, set[int]] = {}
        """Addresses in a piece that pointers in data point to, by piece."""
        self.holders: dict[int, set[int]] = {}
        """Objects of data that hold pointers to a piece, by piece."""
        for start, values in graph.pointers.items():
            for value in values:
                self._lead(value)
                self.holders.setdefault(self.code.at(value), set()).add(start)
        for address in graph.given:
            self._lead(address)
        self.lenient = False
        """Whether jumps from gaps into instructions are no entries: tables between functions look like such jumps."""

    def _lead(self, address: int) -> None:
        self.pointed.setdefault(self.code.at(address), set()).add(address)

    def body(self, piece: int) -> Body:
        """Return the instructions of a piece; for one that is too large a body without any, which is not sound."""
        if piece not in self._bodies:
            code = self.code
            start, end, offset = code.starts[piece], code.ends[piece], code.offsets[piece]
            self._kept += end - start
            if end - start > BODY or self._kept > BODIES:
                self._bodies[piece] = body(b"", start)
            else:
                raw = bytes(self.data[offset : offset + end - start])
                self._bodies[piece] = body(raw, start, self.entries(piece))
        return self._bodies[piece]

    def arguments(self, piece: int) -> frozenset[int]:
        """Return the registers that a piece reads: other arguments make no difference to it."""
        if piece not in self._arguments:
            self._arguments[piece] = frozenset(chain.from_iterable(s.reads for s in self.body(piece).steps))
        return self._arguments[piece]

    def entries(self, piece: int) -> tuple[int, ...]:
        """Return the addresses in a piece, beside its start, that other code or data refers to."""
        callers = self.graph.callers.get(piece, frozenset())
        if self.lenient and any(self.code.kinds[source] == GAP for source, _ in callers):
            whole = self._boundaries(piece)
            callers = frozenset(c for c in callers if self.code.kinds[c[0]] != GAP or c[1] in whole)
        places = {address for _, address in callers} | self.pointed.get(piece, set())
        return tuple(sorted(places - {self.code.starts[piece]}))

    def _boundaries(self, piece: int) -> set[int]:
        """Return the addresses of a piece's instructions."""
        from iced_x86 import Decoder  # noqa: PLC0415

        if piece not in self._starts:
            start, end, offset = self.code.starts[piece], self.code.ends[piece], self.code.offsets[piece]
            raw = bytes(self.data[offset : offset + min(end - start, BODY)])
            self._starts[piece] = {step.ip for step in Decoder(64, raw, ip=start)}
        return self._starts[piece]
