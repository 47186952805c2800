"""Fields of 32 bits that may lead to some ranges of addresses, looked for at every byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

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
    absolute = [(low, high - 1) for low, high in ranges] if fixed else []
    found: list[int] = []
    for block in range(0, len(raw) - FIELD + 1, BLOCK):
        end = min(block + BLOCK, len(raw) - FIELD + 1)
        spans = [(low - block - BLOCK - FIELD - IMMEDIATE, high - block) for low, high in zip(lows, highs, strict=True)]
        places = _having(held, block, end, [*spans, *absolute])
        values = _values(held, places)
        behind = places + FIELD + values.view(np.int32)
        number = lows.searchsorted(behind + IMMEDIATE, side="right") - 1
        leads = (number >= 0) & (behind < highs[number])
        if fixed:
            for low, high in ranges:
                leads |= (values >= low) & (values < high)
        found += places[leads].tolist()
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


class Referring(NamedTuple):
    """What in some pieces, which lie behind each other, may name an address."""

    pieces: set[int]
    """The places of pieces with a field that may lead to one of the ranges, or with a call for the address behind."""
    fields: list[int]
    """The offsets of such fields, ascending."""
    calls: list[int]
    """The offsets of such calls, ascending."""
    taken: list[int]
    """The offsets to which LEA leads."""


def referring(
    raw: bytes, address: int, borders: tuple[Sequence[int], Sequence[int]], spans: Sequence[tuple[int, int]], near: int
) -> Referring:
    """Return what may name an address in one of some ranges, by its distance.

    Args:
        raw: the bytes of the pieces, and of the longest instruction behind them.
        address: that of the first one.
        borders: the offsets at which the pieces begin, and those behind them.
        spans: the ranges, ascending and disjoint.
        near: bytes that a call at most passes over where it is there for the address that it pushes.
    """
    bytes_ = np.frombuffer(raw, np.uint8)
    held = words(bytes_)
    starts, ends = (np.array(one, np.int64) for one in borders)
    places = np.flatnonzero((bytes_[:-FIELD] & 0xC7) == 0x05) + 1
    behind = places + FIELD + _values(held, places).view(np.int32)
    lea = (places >= 2) & (bytes_[places - 2] == 0x8D)
    owner = ends.searchsorted(places)
    inside = np.flatnonzero(lea & (owner < len(ends)))
    inside = inside[starts[owner[inside]] <= places[inside] - 2]
    lows = np.array([_clipped(low - address) for low, _ in spans], np.int64)
    highs = np.array([_clipped(high - address) for _, high in spans], np.int64)
    number = lows.searchsorted(behind + IMMEDIATE, side="right") - 1
    leading = places[(number >= 0) & (behind < highs[number])]
    calls = np.flatnonzero(bytes_[:-FIELD] == 0xE8)
    calls = calls[_values(held, calls + 1) < near]
    owners = ends.searchsorted(leading)
    fit = owners < len(ends)
    found = set(owners[fit][starts[owners[fit]] < leading[fit]].tolist())
    for side, fitting in (("left", ends), ("right", starts)):
        owners = ends.searchsorted(calls) if side == "left" else starts.searchsorted(calls, side="right") - 1
        fit = (owners >= 0) & (owners < len(fitting))
        owners, at = owners[fit], calls[fit]
        found.update(owners[(starts[owners] <= at) & (at <= ends[owners])].tolist())
    return Referring(found, leading.tolist(), calls.tolist(), behind[inside].tolist())
