"""Exact order statistics of values with a sign, from one pass between brackets or two of counting.

The 32 bits of a float32, all turned if it is negative and else only the sign, order as the values
do. `order` does the same for magnitudes of deltas, whose sign is dropped.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from mergebuild.kernels.brackets import Bracket, Sample, ValueBrackets, ValueKeys
from mergebuild.kernels.operations import Statistic
from mergebuild.kernels.places import Balance, Spread, Value, ValueHighCounts, ValueLowCounts
from mergebuild.kernels.sample import whole
from mergebuild.kernels.selection import Counts, Halves, guess, key_at, select

SIGN = 2**31
TOP = 2**32 - 1
ZERO = SIGN
"""The key of +0."""


def value(key: int) -> float:
    """The float32 value that has this key."""
    bits = key ^ SIGN if key & SIGN else key ^ 0xFFFFFFFF
    return float(np.array([bits], np.uint32).view(np.float32)[0])


def at_least(threshold: float) -> float:
    """The least float32 value that is not below a float64 threshold; NaN stays."""
    rounded = np.float32(threshold)
    below = float(rounded) < threshold  # as float64, where numpy would round the threshold
    return float(np.nextafter(rounded, np.float32(np.inf)) if below else rounded)


def keys_at(
    values: Sequence[Spread | Balance], ranks: Sequence[Sequence[int]], elements: int
) -> Generator[Statistic, Any, list[tuple[int, ...]]]:
    """The keys at ascending, 0-based ranks, those of each value, of tensors of so many elements.

    One pass, and the two of counting for values of which a guess was wrong.
    """
    sample = yield Sample(ValueKeys(tuple(values)))
    if whole(elements):
        return [select(keys, some) for keys, some in zip(sample, ranks, strict=True)]
    brackets = tuple(
        tuple(guess(keys, rank, elements, TOP) for rank in some)
        for keys, some in zip(sample, ranks, strict=True)
    )
    counted = yield ValueBrackets(tuple(values), brackets)
    found = []
    for value, some, guesses, bracketed in zip(values, ranks, brackets, counted, strict=True):
        exact = map(key_at, some, guesses, bracketed)
        keys = tuple(key for key in exact if key is not None)
        if len(keys) < len(some):
            (slowly,) = yield from ranked((value,), (some,))
            keys = slowly.keys()
        found.append(keys)
    return found


def largest_nonzero(
    value: Spread, share: float, elements: int
) -> Generator[Statistic, Any, int | None]:
    """The key of the k-th largest of values that are 0 or more, k = ⌊share · those above 0⌋; None
    where k is 0."""
    (sample,) = yield Sample(ValueKeys((value,)))
    zeros = np.count_nonzero(sample == ZERO)
    if whole(elements):
        count = int(share * (elements - zeros))
        return select(sample, (elements - count,))[0] if count else None
    count = int(share * (elements - zeros * elements // len(sample)))
    nearly = guess(sample, min(elements - count, elements - 1), elements, TOP)
    brackets = Bracket(ZERO, ZERO, 0), nearly
    ((at_zero, bracketed),) = yield ValueBrackets((value,), (brackets,))
    count = int(share * (elements - at_zero.low))
    if count == 0:
        return None
    key = key_at(elements - count, nearly, bracketed)
    if key is None:
        (slowly,) = yield from ranked((value,), ((elements - count,),))
        (key,) = slowly.keys()
    return key


def ranked(
    values: Sequence[Value], ranks: Sequence[Sequence[int]]
) -> Generator[Statistic, Any, list[Halves]]:
    """Count out ascending, 0-based ranks, those of each value."""
    high = yield ValueHighCounts(tuple(values))
    return (yield from refined(values, high, ranks))


def refined(
    values: Sequence[Value],
    high: Sequence[Counts],
    ranks: Sequence[Sequence[int]],
) -> Generator[Statistic, Any, list[Halves]]:
    """The same, where it is known what `ValueHighCounts` finds."""
    found = [Halves(counts, wanted) for counts, wanted in zip(high, ranks, strict=True)]
    low = yield ValueLowCounts(tuple(values), tuple(one.buckets for one in found))
    for one, counts in zip(found, low, strict=True):
        one.refine(counts)
    return found
