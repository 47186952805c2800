"""Fields of 32 bits that may lead to some ranges of addresses, looked for at every byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pikaforge.audit.isa.swept.lengths import words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

BLOCK = 1 << 16
"""Bytes that are looked at together: the upper half of a distance from there to one address has two values."""
FIELD, IMMEDIATE = 4, 4
"""Bytes of a field, and the most that may follow it in its instruction."""


def fields(raw: bytes, address: int, ranges: Sequence[tuple[int, int]], *, fixed: bool) -> list[int]:
    """Return the offsets of fields that may be a distance to one of some ranges, or an address in one.

    Args:
        raw: the bytes.
        address: that of the first one.
        ranges: the ranges, ascending and disjoint.
        fixed: whether a field may be an address.
    """
    held = words(np.frombuffer(raw, np.uint8))
    lows = np.array([_clipped(low - address) for low, _ in ranges], np.int64)
    highs = np.array([_clipped(high - address) for _, high in ranges], np.int64)
    found: list[int] = []
    for block in range(0, len(raw) - FIELD + 1, BLOCK):
        end = min(block + BLOCK, len(raw) - FIELD + 1)
        spans = [(low - block - BLOCK - FIELD - IMMEDIATE, high - block) for low, high in zip(lows, highs, strict=True)]
        places = _having(held, block, end, spans)
        behind = places + FIELD + _values(held, places).view(np.int32)
        number = lows.searchsorted(behind + IMMEDIATE, side="right") - 1
        leads = (number >= 0) & (behind < highs[number])
        found += places[leads].tolist()
        if fixed:
            places = _having(held, block, end, [(low, high - 1) for low, high in ranges])
            found += [
                place
                for place, value in zip(places.tolist(), _values(held, places).tolist(), strict=True)
                if any(low <= value < high for low, high in ranges)
            ]
    return found


def _clipped(distance: int) -> int:
    """Return a distance, or one that no field has."""
    return max(min(distance, 1 << 40), -(1 << 40))


def _having(held: NDArray[np.uint16], first: int, end: int, spans: Iterable[tuple[int, int]]) -> NDArray[np.intp]:
    """Return the offsets of fields in a block whose upper half is that of a value in one of some spans."""
    wanted = np.zeros(1 << 16, bool)
    for low, high in spans:
        if high >= -(1 << 31) and low < 1 << 32:
            uppers = np.arange(max(int(low), -(1 << 31)) >> 16, (min(int(high), (1 << 32) - 1) >> 16) + 1)
            wanted[uppers & 0xFFFF] = True
    return np.flatnonzero(wanted.take(held[first + 2 : end + 2])) + first


def _values(held: NDArray[np.uint16], places: NDArray[np.intp]) -> NDArray[np.uint32]:
    return held[places] | held[places + 2].astype(np.uint32) << np.uint32(16)
