"""Exact order statistics of values with a sign, from two passes of counting.

The 32 bits of a float32, all turned if it is negative and else only the sign, order as the values
do. `order` does the same for magnitudes of deltas, whose sign is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mergebuild.kernels.operations import Statistic
from mergebuild.kernels.places import Value, ValueHighCounts, ValueLowCounts

Counts: TypeAlias = NDArray[np.int64]
Sums: TypeAlias = NDArray[np.float64]
SIGN = 2**31


class Ranks:
    """The values of one tensor, sorted, as far as the ranks that were asked for."""

    def __init__(self, counts: Counts, zeros: int, squares: Sums | None) -> None:
        self.nonzero = int(counts.sum()) - zeros
        self._counts, self._squares = counts, squares
        self._cumulative = np.cumsum(counts)
        self._low: Mapping[int, tuple[Counts, Sums | None]] = {}

    def buckets(self, ranks: Sequence[int]) -> tuple[int, ...]:
        """The high halves of the keys at these ascending, 0-based ranks."""
        return tuple(sorted({self._bucket(rank) for rank in ranks}))

    def refine(self, low: Mapping[int, tuple[Counts, Sums | None]]) -> None:
        """Add what was counted inside `buckets`."""
        self._low = low

    def key(self, rank: int) -> int:
        """The key of the value at a rank out of those asked for."""
        bucket = self._bucket(rank)
        before = int(self._cumulative[bucket] - self._counts[bucket])
        inside = np.cumsum(self._low[bucket][0])
        return bucket << 16 | int(np.searchsorted(inside, rank - before, side="right"))

    def squares_from(self, key: int) -> tuple[float, ...]:
        """Σd_i² over the places whose value has at least this key, one that was asked for."""
        high = self._squares
        low = self._low[key >> 16][1]
        assert high is not None, "squares were not asked for"
        assert low is not None
        return tuple(
            math.fsum([*above[(key >> 16) + 1 :].tolist(), *inside[key & 0xFFFF :].tolist()])
            for above, inside in zip(high, low, strict=True)
        )

    def _bucket(self, rank: int) -> int:
        return int(np.searchsorted(self._cumulative, rank, side="right"))


def value(key: int) -> float:
    """The float32 value that has this key."""
    bits = key ^ SIGN if key & SIGN else key ^ 0xFFFFFFFF
    return float(np.array([bits], np.uint32).view(np.float32)[0])


def at_least(threshold: float) -> float:
    """The least float32 value that is not below a float64 threshold; NaN stays."""
    rounded = np.float32(threshold)
    below = float(rounded) < threshold  # as float64, where numpy would round the threshold
    return float(np.nextafter(rounded, np.float32(np.inf)) if below else rounded)


def ranked(
    values: Sequence[Value], ranks: Sequence[Sequence[int]]
) -> Generator[Statistic, Any, list[Ranks]]:
    """Look up ascending, 0-based ranks, those of each value."""
    high = yield ValueHighCounts(tuple(values))
    return (yield from refined(values, high, ranks))


def refined(
    values: Sequence[Value],
    high: Sequence[tuple[Counts, int, Sums | None]],
    ranks: Sequence[Sequence[int]],
) -> Generator[Statistic, Any, list[Ranks]]:
    """The same, where it is known what `ValueHighCounts` finds."""
    found = [Ranks(*counted) for counted in high]
    buckets = tuple(one.buckets(wanted) for one, wanted in zip(found, ranks, strict=True))
    low = yield ValueLowCounts(tuple(values), buckets)
    for one, counts in zip(found, low, strict=True):
        one.refine(counts)
    return found
