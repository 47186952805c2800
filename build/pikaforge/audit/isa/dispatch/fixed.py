"""Pointers in a program with a fixed address: no relocation tells them, so every word that may be one counts."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

from pikaforge.audit.elf.layout import PF_X, PT_LOAD, Buffer, Layout
from pikaforge.audit.elf.pointers import CodePointers

WORD = 8
"""Bytes of a pointer."""
POINTERS = 4 << 20
"""The most words that are kept: more are no program that is looked at here."""


def with_fixed(given: CodePointers, data: Buffer, layout: Layout, resolvers: frozenset[int]) -> CodePointers:
    """Return the pointers of a program with a fixed address.

    Args:
        given: those that its dynamic section tells, if it has one.
        data: its bytes.
        layout: its layout.
        resolvers: functions that choose an implementation at start-up (ifunc).
    """
    return replace(
        given,
        given=given.given | {layout.entry} | resolvers,
        resolvers=given.resolvers | resolvers,
        stored=tuple(dict.fromkeys((*given.stored, *_words(data, layout)))),
    )


def _words(data: Buffer, layout: Layout) -> Iterator[tuple[int, int]]:
    """Yield the places and values of all words of data that are addresses of the program."""
    loads = [s for s in layout.segments if s.type == PT_LOAD]
    low, high = min(s.address for s in loads), max(s.address + s.memory_size for s in loads)
    count = 0
    for part in loads:
        if part.flags & PF_X:
            continue
        start = part.offset + -part.address % WORD
        raw = data[start : start + (part.offset + part.file_size - start) // WORD * WORD]
        for number, (value,) in enumerate(struct.iter_unpack("<Q", raw)):
            if low <= value < high:
                count += 1
                if count > POINTERS:
                    return
                yield part.address + start - part.offset + WORD * number, value
