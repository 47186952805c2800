"""Tables of functions, by the symbols of data: where code names fields of a table, one looks like several objects.

`graph` begins an object at each address that something names. A table that code uses by its address, and by the
addresses of some of its fields, is in pieces then. The symbol table of a file that is not stripped has its borders.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Set
from operator import attrgetter
from typing import NamedTuple

from pikaforge.audit.elf.layout import SHT_SYMTAB, Buffer, Layout, text
from pikaforge.audit.elf.symbol_table import SYMBOL, read_symbol_table
from pikaforge.audit.isa.dispatch.graph import Graph, Reach
from pikaforge.audit.isa.ranges import STT_OBJECT

_LEAST = 16
"""Bytes of the smallest table, with two addresses."""
ROUNDS = 8
"""The most rounds until no further table is reached."""


class DataTable(NamedTuple):
    """A symbol of data."""

    start: int
    end: int
    name: str


class DataTables:
    """The tables of one file."""

    def __init__(self, data: Buffer, layout: Layout, graph: Graph, where: str) -> None:
        """Read the symbols of data that something names.

        Raises:
            AuditError: the symbol table is cut off.
        """
        self._graph = graph
        self._all: list[DataTable] = []
        raw, strings = read_symbol_table(data, layout, (SHT_SYMTAB,), where)
        end = 0
        for start, size, name in sorted(
            (value, size, name)
            for name, info, _, _, value, size in SYMBOL.iter_unpack(raw)
            if info & 0xF == STT_OBJECT and size >= _LEAST
        ):
            if start >= end and any(True for _ in graph.objects_between(start, start + size)):
                end = start + size
                self._all.append(DataTable(start, end, text(strings, name)))

    def __iter__(self) -> Iterator[DataTable]:
        return iter(self._all)

    def around(self, address: int) -> DataTable | None:
        """Return the table that an address is in; None if it is in none."""
        index = bisect_right(self._all, address, key=attrgetter("start")) - 1
        return self._all[index] if index >= 0 and address < self._all[index].end else None

    def parts(self, address: int) -> set[int]:
        """Return the objects of the table that an address is in; the address alone if it is in none."""
        table = self.around(address)
        return {address} if table is None else {address, *self._graph.objects_between(table.start, table.end)}

    def lead(self, address: int) -> bool:
        """Return whether an address is in a table, or in a word that holds the address of one."""
        return any(self.around(place) for place in (address, *self._graph.pointers.get(address)))

    def reach(self, open_: Mapping[int, Set[int]], without: Set[int]) -> Reach:
        """Return what is reached from outside, as `Graph.reach`, if whatever leads to a part of a table leads to all.

        Where that does not end soon, the addresses of all tables are taken for reached.
        """
        also: set[int] = set()
        held = [set(self._graph.objects_between(table.start, table.end)) for table in self._all]
        split = [parts for parts in held if len(parts) > 1]
        for number in range(ROUNDS + 1):
            reach = self._graph.reach(open_, without=without, also=also)
            more = {p for parts in split if number == ROUNDS or any(map(reach.has_data, parts)) for p in parts} - also
            if not more:
                break
            also |= more
        return reach
