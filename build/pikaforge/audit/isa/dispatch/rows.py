"""Numbers in sorted arrays, so that a million of them take few megabytes: a dict of sets takes a hundred bytes each."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.uint64]
    AnyNumbers = NDArray[np.unsignedinteger[Any]]
    Places = NDArray[np.int64]

EMPTY = array("Q")


class AddressSet:
    """A set of addresses."""

    def __init__(self, addresses: Numbers) -> None:
        """Keep some addresses, in any order."""
        self._held = array("Q", np.unique(addresses).tobytes())  # bisection of one number is quicker than in numpy
        self.sorted: Numbers = numbers(self._held)

    def __contains__(self, address: int) -> bool:
        return self.any_between(address, address + 1)

    def __iter__(self) -> Iterator[int]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def between(self, low: int, high: int) -> array[int]:
        """Return those from a first address to the one before another, ascending."""
        return self._held[bisect_left(self._held, low) : bisect_left(self._held, high)]

    def any_between(self, low: int, high: int) -> bool:
        """Return whether there is one from a first address to the one before another."""
        at = bisect_left(self._held, low)
        return at < len(self._held) and self._held[at] < high


class Rows:
    """Numbers by a key. Those of a key are in the order in which they were given."""

    def __init__(self, keys: Numbers, values: Numbers | NDArray[np.int32]) -> None:
        """Keep a value for each key; a key may occur many times."""
        order = np.argsort(keys, kind="stable")
        found, begin = np.unique(keys[order], return_index=True)
        self._keys = array("Q", found.tobytes())
        self.keys: Numbers = numbers(self._keys)
        self._bounds = array("q", np.append(begin, len(keys)).astype(np.int64).tobytes())
        self._values = array("Q", values[order].astype(np.uint64).tobytes())

    def __contains__(self, key: int) -> bool:
        at = bisect_left(self._keys, key)
        return at < len(self._keys) and self._keys[at] == key

    def get(self, key: int) -> array[int]:
        """Return the numbers of a key; none of one that there is not."""
        at = bisect_left(self._keys, key)
        if at == len(self._keys) or self._keys[at] != key:
            return EMPTY
        return self._values[self._bounds[at] : self._bounds[at + 1]]


def numbers(held: array[int] | list[int] | set[int] | frozenset[int]) -> Numbers:
    """Return some numbers as an array; addresses are taken modulo 2^64."""
    if isinstance(held, array):
        return np.frombuffer(held, np.uint64) if len(held) else np.empty(0, np.uint64)
    return np.fromiter((value % (1 << 64) for value in held), np.uint64, len(held))


def is_in(values: Numbers, ascending: Numbers) -> NDArray[np.bool_]:
    """Return whether each of some numbers is one of others, which are ascending."""
    if not len(ascending):
        return np.zeros(len(values), bool)
    at = np.minimum(ascending.searchsorted(values), len(ascending) - 1)
    return np.asarray(ascending[at] == values)


def row_of(starts: Numbers, ends: Numbers, addresses: Numbers) -> Places:
    """Return the index of the range that holds each of some addresses; -1 if none does. Ranges are ascending."""
    if not len(starts):
        return np.full(len(addresses), -1, np.int64)
    at = starts.searchsorted(addresses, side="right") - 1
    return np.where((at >= 0) & (addresses < ends[at]), at, -1)
