"""One library while evidence is looked for: its bytes, references and instructions, each read once."""

from __future__ import annotations

from itertools import chain

from pikaforge.audit.elf.layout import Buffer, Layout
from pikaforge.audit.isa.dispatch.graph import Graph
from pikaforge.audit.isa.dispatch.steps import Body, body

BODY, BODIES = 256 << 10, 8 << 20
"""Bytes of one function, and of all, whose instructions are kept: some 500 bytes of memory for each byte of code."""


class Library:
    """A file, and what was read of it so far."""

    def __init__(self, data: Buffer, layout: Layout, graph: Graph, asking: frozenset[int]) -> None:
        self.data, self.layout, self.graph, self.code, self.asking = data, layout, graph, graph.code, asking
        self._bodies: dict[int, Body] = {}
        self._kept = 0
        self._arguments: dict[int, frozenset[int]] = {}
        self.pointed: dict[int, set[int]] = {}
        """Addresses that pointers in data lead to, by piece."""
        self.holders: dict[int, set[int]] = {}
        """Objects with pointers to a piece."""
        for start, values in graph.pointers.items():
            for value in values:
                self._lead(value)
                self.holders.setdefault(self.code.at(value), set()).add(start)
        for address in graph.given:
            self._lead(address)

    def _lead(self, address: int) -> None:
        self.pointed.setdefault(self.code.at(address), set()).add(address)

    def body(self, piece: int) -> Body:
        """The instructions of a piece."""
        if piece not in self._bodies:
            code = self.code
            start, end, offset = code.starts[piece], code.ends[piece], code.offsets[piece]
            self._kept += end - start
            if end - start > BODY or self._kept > BODIES:
                self._bodies[piece] = body(b"", start)  # of which nothing is proven
            else:
                raw = bytes(self.data[offset : offset + end - start])
                self._bodies[piece] = body(raw, start, self.entries(piece))
        return self._bodies[piece]

    def arguments(self, piece: int) -> frozenset[int]:
        """The registers that a piece reads, so that it is not run again for those that it does not."""
        if piece not in self._arguments:
            self._arguments[piece] = frozenset(chain.from_iterable(s.reads for s in self.body(piece).steps))
        return self._arguments[piece]

    def entries(self, piece: int) -> tuple[int, ...]:
        """Addresses in a piece, beside its start, that are named elsewhere."""
        places = {address for _, address in self.graph.callers.get(piece, ())} | self.pointed.get(piece, set())
        return tuple(sorted(places - {self.code.starts[piece]}))
