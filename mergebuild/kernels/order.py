"""Exact order statistics of magnitudes, from one pass between brackets or two of counting.

The 31 bits of |x| as float32 are monotone in |x|. A sample tells about where a rank lies; one pass
counts what lies below and keeps what lies near, which tells the value. Else, and where Σ|x| is
wanted too: counting the high 15 bits tells the bucket of a rank, counting the low 16 inside that
bucket tells the value.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mergebuild.kernels.brackets import MagnitudeBrackets, MagnitudeKeys, Sample
from mergebuild.kernels.operations import HighCounts, LowCounts, Statistic
from mergebuild.kernels.sample import whole
from mergebuild.kernels.selection import Counts, Halves, guess, key_at, select

Ranks: TypeAlias = tuple[int, ...]

TOP = 2**31 - 1


class Magnitudes(Halves):
    """|x| of one vector, sorted, as far as the ranks that were asked for, and their sums."""

    def __init__(self, high: Counts, ranks: Sequence[int]) -> None:
        counts, self._sums = high
        super().__init__(counts, ranks)

    def total(self) -> float:
        """Σ|x|."""
        return math.fsum(self._bucket_sums(0, len(self._counts)))

    def between(self, first: int, last: int | None = None) -> float:
        """Σ|x| over first ≤ key ≤ last, both the keys of ranks that were asked for."""
        top = len(self._counts) if last is None else last >> 16
        return math.fsum(
            [
                *self._bucket_sums((first >> 16) + 1, top),
                *self._edge_sums(first >> 16, first, last),
                *(self._edge_sums(top, first, last) if first >> 16 < top < 2**15 else ()),
            ]
        )

    def _bucket_sums(self, start: int, stop: int) -> Iterator[float]:
        """Within a bucket the exponent is one, so its sum follows from that of the low halves."""
        buckets = np.arange(start, max(start, stop), dtype=np.int64)
        buckets = buckets[self._counts[buckets] > 0]
        units = np.ldexp(1.0, np.maximum(buckets >> 7, 1) - 150)
        sums = self._counts[buckets] * values(buckets << 16) + self._sums[buckets] * units
        return iter(sums.tolist())

    def _edge_sums(self, bucket: int, first: int, last: int | None) -> Iterator[float]:
        counts = self._low[bucket]
        keys = np.flatnonzero(counts) | bucket << 16
        keys = keys[(keys >= first) & (keys <= (2**31 if last is None else last))]
        return iter((counts[keys & 0xFFFF] * values(keys)).tolist())


def values(keys: NDArray[np.int64]) -> NDArray[np.float64]:
    """The magnitudes that have these bits."""
    return keys.astype(np.uint32).view(np.float32).astype(np.float64)


def value(key: int) -> float:
    """The magnitude that has these bits."""
    return float(values(np.array([key]))[0])


def magnitudes(
    ranks: Mapping[int, Ranks], *, sums: bool
) -> Generator[Statistic, Any, dict[int, Magnitudes]]:
    """Count out ascending, 0-based ranks of deltas, by position; with `sums` Σ|d| too."""
    deltas = tuple(sorted(ranks))
    if not deltas:
        return {}
    high = yield HighCounts(deltas, sums)
    found = [Magnitudes(counts, ranks[delta]) for delta, counts in zip(deltas, high, strict=True)]
    low = yield LowCounts(deltas, tuple(one.buckets for one in found))
    for one, counts in zip(found, low, strict=True):
        one.refine(counts)
    return dict(zip(deltas, found, strict=True))


def keys_at(
    ranks: Mapping[int, Ranks], elements: int
) -> Generator[Statistic, Any, dict[int, tuple[int, ...]]]:
    """The keys at ascending, 0-based ranks of deltas, by position, of tensors of so many elements.

    One pass, and the two of counting for deltas of which a guess was wrong.
    """
    deltas = tuple(sorted(ranks))
    if not deltas:
        return {}
    sample = yield Sample(MagnitudeKeys(deltas))
    if whole(elements):
        return {
            delta: select(keys, ranks[delta]) for delta, keys in zip(deltas, sample, strict=True)
        }
    brackets = tuple(
        tuple(guess(keys, rank, elements, TOP) for rank in ranks[delta])
        for delta, keys in zip(deltas, sample, strict=True)
    )
    counted = yield MagnitudeBrackets(deltas, brackets)
    found: dict[int, tuple[int, ...]] = {}
    for delta, guesses, bracketed in zip(deltas, brackets, counted, strict=True):
        exact = map(key_at, ranks[delta], guesses, bracketed)
        keys = tuple(key for key in exact if key is not None)
        if len(keys) == len(ranks[delta]):
            found[delta] = keys
    missed = {delta: ranks[delta] for delta in deltas if delta not in found}
    slowly = yield from magnitudes(missed, sums=False)
    found |= {delta: one.keys() for delta, one in slowly.items()}
    return found
