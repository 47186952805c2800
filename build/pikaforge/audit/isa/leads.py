"""Addresses to which the loader and pointers lead, among executable bytes that may be data. Those of code: `taken`."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pikaforge.audit.elf.layout import ET_DYN, Buffer, Layout, mapped, read_layout, release
from pikaforge.audit.elf.pointers import read_pointers
from pikaforge.audit.isa.opcodes import calls, flows
from pikaforge.audit.isa.ranges import CodeMap
from pikaforge.errors import AuditError

STEP = 1 << 20
"""Bytes of data that are read at once for pointers."""
WORD = 8
MANY = 1 << 15
"""Addresses from which on numpy looks where they are."""
FEW = 16
"""Values of the upper bytes of words up to which a search for each is faster than to read all words."""
Spans = tuple[tuple[int, int], ...]


def given(data: Buffer, layout: Layout, where: str, spans: Spans) -> tuple[set[int], set[int]]:
    """Return what the loader and other files use as code, and what they use as data or relocated pointers have.

    Of pointers, those into some ranges.
    """
    certain, named = {layout.entry}, set[int]()
    with suppress(AuditError):  # a library that cannot be read is refused where its dynamic section is judged
        pointers = read_pointers(data, layout, where)
        certain |= pointers.given - pointers.objects
        named |= pointers.objects
        named |= those_within(pointers.stored.values, spans)
    return certain, named


def given_of(path: Path, where: str, spans: Spans) -> set[int]:
    """Return the addresses in some ranges to which the loader leads: as code, or by the pointers that it writes."""
    with mapped(path) as data:
        certain, named = given(data, read_layout(data, where), where, spans)
    return those_within(array("Q", certain | named), spans)


def words_of(path: str, spans: Spans) -> array[int]:
    """Return what `words` yields of a file. Worker processes run this."""
    with mapped(Path(path)) as data:
        return array("Q", words(data, read_layout(data, path), spans))


def words(data: Buffer, layout: Layout, spans: Spans) -> Iterator[int]:
    """Yield the words of a program at fixed addresses that lie in some ranges: its pointers are not relocated.

    Those of an object file are, and only what is loaded of it has them.
    """
    if layout.type == ET_DYN:
        return
    starts = [low for low, _ in spans]
    low, high = spans[0][0], max(end for _, end in spans)
    uppers = {word for start, end in spans for word in range(start >> 16, (end - 1 >> 16) + 1)}
    for part in layout.loaded():
        begin = part.offset + -part.address % WORD
        end = part.offset + part.file_size
        for at in range(begin, end - WORD + 1, STEP):
            raw = data[at : at + (min(STEP, end - at) // WORD * WORD)]
            if len(uppers) <= FEW:
                for upper in uppers:
                    yield from _with_upper(raw, upper, spans, starts)
            else:
                yield from (value for value in array("Q", raw) if low <= value < high and one_of(value, spans, starts))
            release(data)


def _with_upper(raw: bytes, upper: int, spans: Spans, starts: list[int]) -> Iterator[int]:
    """Yield the words that lie in some ranges, and whose upper six bytes have a value."""
    pattern = upper.to_bytes(WORD - 2, "little")
    at = raw.find(pattern, 2)
    while at >= 0:
        if (at - 2) % WORD == 0:
            value = int.from_bytes(raw[at - 2 : at - 2 + WORD], "little")
            if one_of(value, spans, starts):
                yield value
        at = raw.find(pattern, at + 1)


def runs_on(data: Buffer, code: CodeMap, address: int) -> bool:
    """Return whether the piece of code that ends at an address runs on there."""
    from iced_x86 import Decoder, Mnemonic  # noqa: PLC0415

    index = code.at(address - 1)
    if index < 0:
        return False
    start, offset = code.starts[index], code.offsets[index]
    instructions = list(Decoder(64, data[offset : offset + address - start], ip=start))
    idle = {int(Mnemonic.NOP), int(Mnemonic.INT3)}
    while instructions and instructions[-1].mnemonic in idle:
        instructions.pop()
    if not instructions or instructions[-1].code == 0:
        return False
    # A call at the end of a function does not return.
    return instructions[-1].flow_control not in flows() | calls()


def those_within(addresses: array[int], spans: Spans) -> set[int]:
    """Return those of many addresses that are in one of some ascending, disjoint ranges."""
    if not spans:
        return set()
    starts = [low for low, _ in spans]
    if len(addresses) < MANY:
        return {address for address in addresses if one_of(address, spans, starts)}
    import numpy as np  # noqa: PLC0415

    held, (lows, highs) = np.frombuffer(addresses, np.uint64), np.array(spans, np.uint64).T
    number = lows.searchsorted(held, side="right") - 1
    return set(held[(number >= 0) & (held < highs[number])].tolist())


def within(address: int, spans: Spans) -> bool:
    """Return whether an address is in one of some ascending, disjoint ranges."""
    index = bisect_right(spans, (address, 1 << 64)) - 1
    return index >= 0 and spans[index][0] <= address < spans[index][1]


def one_of(address: int, spans: Spans, starts: list[int]) -> bool:
    """Return whether an address is in one of some ascending, disjoint ranges, whose starts are given, too."""
    index = bisect_right(starts, address) - 1
    return index >= 0 and address < spans[index][1]
