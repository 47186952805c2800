"""Look at the tables among the pieces of a file (`elf.closure_tables`): could a CPU run one?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pikaforge.audit.elf.closure_tables import leads_to_closure
from pikaforge.audit.elf.layout import read_layout
from pikaforge.audit.isa.candidates import harmless
from pikaforge.audit.isa.opcodes import LONGEST, flows
from pikaforge.audit.isa.ranges import TABLE

if TYPE_CHECKING:
    from pikaforge.audit.elf.layout import Buffer
    from pikaforge.audit.isa.scan_facts import Unit
    from pikaforge.audit.isa.worker_pool import Chunk


DISTANCE = 4
"""Bytes of the distance at the end of a table."""


def tables_in(chunk: Chunk, data: Buffer, allowed: frozenset[str], doubtful: list[int]) -> frozenset[int]:
    """Return the addresses of the tables of a chunk, and add the indexes of those that could hold an instruction.

    One that could only begin within the distance to a closure does not count if the distance leads to one.
    """
    if TABLE not in chunk.kinds:
        return frozenset()
    fine: dict[bytes, bool] = {}
    layout = None
    places = [place for place, kind in enumerate(chunk.kinds) if kind == TABLE]
    for place in places:
        size, at = chunk.ends[place] - chunk.starts[place], chunk.offsets[place]
        raw = data[at : at + size]
        if raw not in fine:
            fine[raw] = harmless(raw + bytes(LONGEST), allowed, starts=size)
        if not fine[raw]:
            layout = layout or read_layout(data, chunk.path)
            known = leads_to_closure(data, layout, chunk.ends[place], at + size)
            if not known or not harmless(raw + bytes(LONGEST), allowed, starts=size - DISTANCE):
                doubtful.append(chunk.first + place)
    return frozenset(chunk.starts[place] for place in places)


def runs_on(unit: Unit) -> bool:
    """Return whether the code of a unit runs on behind its end."""
    from iced_x86 import Mnemonic  # noqa: PLC0415

    for instruction in reversed(unit.instructions):
        at = instruction.ip - unit.start
        if instruction.mnemonic != Mnemonic.NOP and unit.raw[at:].strip(b"\0"):
            return instruction.code != 0 and instruction.flow_control not in flows()
    return False
