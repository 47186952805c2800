"""The starts of instructions behind each other, from many places at once.

From an array of the offset behind the instruction at each offset, others are made of that behind 4 and behind 16
instructions. So a walk of 16 instructions is one step, and what is between the steps is found for all of them together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Places = NDArray[np.intp]

LONGEST = 15
FEW = 48
"""Walks up to which each by itself is faster than all in step."""


class Jumps(NamedTuple):
    """The offset behind some instructions, by the offset of the first. What is behind the last one leads to itself."""

    one: Places
    four: Places
    sixteen: Places


def jumps(lengths: NDArray[np.uint8], borders: Places) -> Jumps:
    """Return the jumps over the bytes of a block.

    Args:
        lengths: the length of the instruction at each byte.
        borders: offsets over which no instruction goes: it ends there.
    """
    size = len(lengths)
    one = np.arange(size + 1)
    one[:-1] += lengths
    one[max(size - 15, 0) :] = np.minimum(one[max(size - 15, 0) :], size)
    near = borders[None, :] - np.arange(LONGEST - 1, 0, -1)[:, None]
    before = np.maximum(near, 0)
    # Where two borders are near each other, the last one that is set is the nearer one.
    one[before] = np.where(near < 0, one[before], np.minimum(one[before], borders))
    two = one[one]
    four = two[two]
    eight = four[four]
    return Jumps(one, four, eight[eight])


def starts(over: Jumps, begin: Places, end: Places) -> NDArray[np.bool_]:
    """Return whether an instruction begins at each offset, on the way from some places to others.

    A way may go on behind its end for 15 instructions.

    Args:
        over: the jumps.
        begin: the offsets at which ways begin.
        end: the offset behind each way.
    """
    met = [begin]
    at = begin
    while len(at) > FEW:
        at = over.sixteen[at]
        left = at < end
        at, end = at[left], end[left]
        met.append(at)
    jump = over.sixteen.item
    for place, last in zip(at.tolist(), end.tolist(), strict=True):
        one, way = jump(place), []
        while one < last:
            way.append(one)
            one = jump(one)
        met.append(np.array(way, np.intp))
    places = np.concatenate(met)
    for by in (over.four, over.one):
        second = by[places]
        third = by[second]
        places = np.concatenate((places, second, third, by[third]))
    out = np.zeros(len(over.one), bool)
    out[places] = True
    return out
