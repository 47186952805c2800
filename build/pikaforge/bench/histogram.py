"""Counts of latencies in buckets whose bounds are the same everywhere, so that processes' counts add up exactly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MANTISSA_BITS = 7
"""Values below 256 have a bucket each; above, a bucket is at most 1/128 (0.8 %) of its lowest value wide."""
_STEPS = 1 << MANTISSA_BITS


def bucket(value: int) -> int:
    """The index of the bucket that holds a value, 0 or more; indices grow with values and leave none out."""
    shift = max(0, value.bit_length() - MANTISSA_BITS - 1)
    return shift * _STEPS + (value >> shift)


def bounds(index: int) -> tuple[int, int]:
    """The lowest and the highest value of a bucket, both included."""
    shift = max(0, index // _STEPS - 1)
    low = (index - shift * _STEPS) << shift
    return low, low + (1 << shift) - 1


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values fell into each bucket."""

    counts: tuple[tuple[int, int], ...] = ()
    """Pairs of a bucket's index and its count, by index; no count is 0."""

    @classmethod
    def of(cls, *parts: Mapping[int, int] | Histogram) -> Histogram:
        """The sum of counts by bucket index, and of other histograms."""
        total: dict[int, int] = {}
        for part in parts:
            pairs: Iterable[tuple[int, int]] = part.counts if isinstance(part, Histogram) else part.items()
            for index, count in pairs:
                total[index] = total.get(index, 0) + count
        return cls(tuple(sorted((index, count) for index, count in total.items() if count)))

    @property
    def total(self) -> int:
        """How many values there are."""
        return sum(count for _, count in self.counts)

    def quantile(self, per_thousand: int) -> int | None:
        """The value that so many of a thousand do not exceed; None without values.

        It is the highest value of the bucket in which the exact quantile (nearest rank) lies: never less than that,
        and at most 0.8 % more.
        """
        rank = max(1, -(-self.total * per_thousand // 1000))
        seen = 0
        for index, count in self.counts:
            seen += count
            if seen >= rank:
                return bounds(index)[1]
        return None
