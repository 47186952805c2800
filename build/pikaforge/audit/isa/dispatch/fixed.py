"""Pointers in a program with a fixed address: no relocation tells them, so each word and number that may be one counts.

Programs have other numbers in the range of their addresses, too: `O_TMPFILE` is 0x410000, and the last letters of a
text may be one. One of them that leads into an implementation for newer CPUs, from a function that asks nobody, would
undo the proof for it. So these do not count:

- numbers in instructions that take bits from a value, compare half a register, or multiply, and numbers that are
  shifted: nobody does that with the address of code;
- what leads into a function, but not to the start of one of its instructions, as far as the function can be decoded.

Direct jumps count wherever they lead.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from pikaforge.audit.elf.layout import PF_X, PT_LOAD, Buffer, Layout, release
from pikaforge.audit.elf.pointers import CodePointers, Stored
from pikaforge.audit.isa.dispatch.rows import numbers, row_of
from pikaforge.audit.isa.ranges import FRAME, FUNCTION, LAST, NOWHERE, CodeMap

if TYPE_CHECKING:
    from iced_x86 import Instruction
    from numpy.typing import NDArray

    from pikaforge.audit.isa.dispatch.rows import Numbers

WORD = 8
"""Bytes of a pointer."""
BLOCK = 1 << 20
"""Bytes of data that are looked at at once: whole words."""
POINTERS = 4 << 20
"""The most words that are kept: more are no program that is looked at here."""
COUNTING = re.compile(r"(AND|OR|XOR|TEST|IMUL)_.*IMM|CMP_(RM32|RM16|RM8|EAX|AX|AL)_IMM")
"""iced's names of instructions with a number that is no address."""
NEAR = 8
"""Instructions after a number is put into a register in which the register's first use is looked for."""
LARGEST = 1 << 20
"""Bytes of the largest function that is decoded for the starts of its instructions."""


@lru_cache(maxsize=1)
def counting() -> frozenset[int]:
    """Return iced's codes of instructions with a number that is no address (`COUNTING`)."""
    from iced_x86 import Code  # noqa: PLC0415

    return frozenset(int(getattr(Code, name)) for name in dir(Code) if COUNTING.match(name))


def numbers_in(instructions: Sequence[Instruction], bounds: Sequence[tuple[int, int]]) -> set[int]:
    """Return the numbers and distances in instructions that may be addresses of the program.

    Args:
        instructions: the instructions of a function.
        bounds: the ranges of the program's addresses.
    """
    number, place = attrgetter("immediate32"), attrgetter("memory_displacement")
    numbers = _inside(set(map(number, instructions)), bounds)
    if numbers:
        numbers &= {
            number(step)
            for index, step in enumerate(instructions)
            if number(step) in numbers and step.code not in counting() and not _shifted(instructions, index)
        }
    return numbers | _inside(set(map(place, instructions)), bounds)


def _shifted(instructions: Sequence[Instruction], index: int) -> bool:
    """Return whether an instruction puts a number into a register, and the next one that uses the register shifts it.

    Compilers make numbers of 64 bits in this way.
    """
    from iced_x86 import Code, FlowControl, InstructionInfoFactory, Mnemonic, RegisterExt  # noqa: PLC0415

    first = instructions[index]
    if first.code != Code.MOV_R32_IMM32:
        return False
    own, factory = RegisterExt.full_register(first.op0_register), InstructionInfoFactory()
    for step in instructions[index + 1 : index + 1 + NEAR]:
        if step.flow_control != FlowControl.NEXT:
            return False
        if own in {RegisterExt.full_register(used.register) for used in factory.info(step).used_registers()}:
            named = step.op_count > 0 and RegisterExt.full_register(step.op0_register) == own
            return named and step.mnemonic in (Mnemonic.SHL, Mnemonic.SHR, Mnemonic.SAR, Mnemonic.ROL, Mnemonic.ROR)
    return False


def _inside(numbers: set[int], bounds: Sequence[tuple[int, int]]) -> set[int]:
    lowest, highest = min((low for low, _ in bounds), default=0), max((high for _, high in bounds), default=0)
    return {v for v in numbers if lowest <= v < highest and any(low <= v < high for low, high in bounds)}


class Boundaries:
    """Where the instructions of a program's functions begin."""

    def __init__(self, data: Buffer, code: CodeMap) -> None:
        """Decode nothing yet."""
        self._data, self._code = data, code
        self._starts: dict[int, array[int] | None] = {}

    def has(self, address: int) -> bool:
        """Return whether an instruction may begin at an address: always outside of functions that can be decoded."""
        piece = self._code.at(address)
        if piece == NOWHERE or address == self._code.starts[piece]:
            return True
        if self._code.kinds[piece] not in (FUNCTION, FRAME):
            return True
        if piece not in self._starts:
            self._starts[piece] = self._decoded(piece)
        starts, offset = self._starts[piece], address - self._code.starts[piece]
        if starts is None:
            return True
        at = bisect_left(starts, offset)
        return at < len(starts) and starts[at] == offset

    def having(self, addresses: Numbers) -> NDArray[np.bool_]:
        """Return of each of some addresses whether an instruction may begin there."""
        code = self._code
        starts = numbers(code.starts)
        row = row_of(starts, numbers(code.ends), addresses)
        kinds = np.frombuffer(bytes(code.kinds), np.uint8)
        within = np.flatnonzero(row >= 0)
        within = within[addresses[within] != starts[row[within]]]
        within = within[np.isin(kinds[row[within]], (FUNCTION, FRAME))]
        out = np.ones(len(addresses), bool)
        out[within] = [self.has(address) for address in addresses[within].tolist()]
        return out

    def _decoded(self, piece: int) -> array[int] | None:
        """Return the offsets of a function's instructions; None if it is too large, or not wholly code."""
        from iced_x86 import Decoder, Instruction  # noqa: PLC0415

        start, end, offset = self._code.starts[piece], self._code.ends[piece], self._code.offsets[piece]
        if end - start > LARGEST:
            return None
        decoder, step = Decoder(64, bytes(self._data[offset : offset + end - start])), Instruction()
        starts = array("I")
        while decoder.can_decode:
            starts.append(decoder.position)
            decoder.decode_out(step)
            if not step.code:
                return None
        return starts


def with_fixed(
    given: CodePointers, data: Buffer, layout: Layout, code: CodeMap, boundaries: Boundaries
) -> CodePointers:
    """Return the pointers of a program with a fixed address.

    Args:
        given: those that its dynamic section tells, if it has one.
        data: its bytes.
        layout: its layout.
        code: its pieces.
        boundaries: where its instructions begin.
    """
    known = dict.fromkeys(zip(*given.stored, strict=True))
    stored = Stored(array("Q", (place for place, _ in known)), array("Q", (value for _, value in known)))
    for places, values in _words(data, layout):
        kept = boundaries.having(values)
        pairs = zip(places[kept].tolist(), values[kept].tolist(), strict=True)
        new = [pair for pair in pairs if pair not in known] if known else list(pairs)
        stored.places.extend(place for place, _ in new)
        stored.values.extend(value for _, value in new)
        release(data)
    return replace(
        given,
        given=given.given | {layout.entry} | code.resolvers,
        resolvers=given.resolvers | code.resolvers,
        stored=stored,
    )


def _words(data: Buffer, layout: Layout) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield the places and values of words of data that are addresses of the program: at most `POINTERS`."""
    loads = [s for s in layout.segments if s.type == PT_LOAD]
    low, high = min(s.address for s in loads), max(s.address + s.memory_size for s in loads)
    left = POINTERS
    for part in loads:
        if part.flags & PF_X:
            continue
        start = part.offset + -part.address % WORD
        end = start + (part.offset + part.file_size - start) // WORD * WORD
        for at in range(start, end, BLOCK):
            raw = data[at : min(at + BLOCK, end)]
            words = np.frombuffer(raw, np.uint64, len(raw) // WORD)
            met = np.flatnonzero((words >= np.uint64(low)) & (words < np.uint64(min(high, LAST))))[:left]
            left -= len(met)
            yield (met * WORD + (part.address + at - part.offset)).astype(np.uint64), words[met]
