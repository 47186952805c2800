"""Histograms whose buckets have the same bounds in every process, so that their counts can be added exactly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MANTISSA_BITS = 7
"""Each value below 256 has a bucket of its own. A bucket above is at most 1/128 (0.8 %) of its lowest value wide."""
_STEPS = 1 << MANTISSA_BITS


def bucket(value: int) -> int:
    """Return the index of the bucket that holds a value, 0 or more; indices grow with values, without gaps."""
    shift = max(0, value.bit_length() - MANTISSA_BITS - 1)
    return shift * _STEPS + (value >> shift)


def bounds(index: int) -> tuple[int, int]:
    """Return the lowest and the highest value of a bucket, both included."""
    shift = max(0, index // _STEPS - 1)
    low = (index - shift * _STEPS) << shift
    return low, low + (1 << shift) - 1


@dataclass(frozen=True, slots=True)
class Histogram:
    """The number of values in each bucket."""

    counts: tuple[tuple[int, int], ...] = ()
    """Pairs of a bucket's index and its count, sorted by index; no count is 0."""

    @classmethod
    def of(cls, *parts: Mapping[int, int] | Histogram) -> Histogram:
        """Return the sum of histograms, and of counts by bucket index."""
        total: dict[int, int] = {}
        for part in parts:
            pairs: Iterable[tuple[int, int]] = part.counts if isinstance(part, Histogram) else part.items()
            for index, count in pairs:
                total[index] = total.get(index, 0) + count
        return cls(tuple(sorted((index, count) for index, count in total.items() if count)))

    @property
    def total(self) -> int:
        """The number of values."""
        return sum(count for _, count in self.counts)

    def quantile(self, per_thousand: int) -> int | None:
        """Return a quantile: the value that `per_thousand` of 1000 values do not exceed; None without values.

        It is the highest value of the bucket that holds the exact quantile (nearest rank): never less than that, and at
        most 0.8 % more.
        """
        rank = max(1, -(-self.total * per_thousand // 1000))
        seen = 0
        for index, count in self.counts:
            seen += count
            if seen >= rank:
                return bounds(index)[1]
        return None
