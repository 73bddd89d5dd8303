"""The elements of a row by buckets of magnitude: which they are in, and how many come before.

Keys are the 31 bits of magnitudes, uint32.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels.numba.jit import jit

_OCTAVES: Final = 12  # magnitudes below 2**-12 times the largest of a row share a bucket
_MOST_BITS: Final = 11
_MANTISSA: Final = 23
_ONE, _NONE = np.uint32(1), np.uint32(0)


def bucket_bits(length: int) -> int:
    """Bits of the mantissa that tell buckets of rows of a length apart."""
    return min(_MOST_BITS, max(0, (length // 64).bit_length() - 1))


def bucket_count(length: int) -> int:
    """The most buckets that a row has: zero, and two for each interval of magnitudes."""
    return 2 * (_OCTAVES << bucket_bits(length)) + 1


@jit
def find_buckets(keys: Any, bits: int, buckets: Any) -> Any:
    """The bucket of each key, ascending with it; the number of buckets.

    Keys share a bucket if they share exponent and the first `bits` of the mantissa, except those
    whose other bits are 0, which have one of their own beside it: differences of short floats are
    often such. So all keys in a bucket are equal if it is 0, for zeros, or odd, but for 1, where
    small ones are.
    """
    shift = np.uint32(_MANTISSA - bits)
    top: Any = _NONE
    for j in range(len(keys)):
        top = max(top, keys[j])
    last = np.int64(top >> shift)
    least: Any = max(0, last + 1 - (_OCTAVES << bits))
    floor = np.uint32(least << np.int64(shift))
    below = np.uint32((_ONE << shift) - _ONE)
    for j in range(len(keys)):
        key = keys[j]
        above = np.uint32(max(key, floor) - floor)
        bucket = np.uint32(np.uint32(above >> shift) << _ONE)
        bucket += np.uint32((above & below) != _NONE)
        bucket += np.uint32(key != _NONE)
        buckets[j] = np.uint16(bucket)
    return 2 * (last - least) + 3


@jit
def alone(bucket: Any) -> Any:
    """Whether all keys in a bucket are equal."""
    return (bucket == 0) | (((bucket & 1) == 1) & (bucket != 1))


@jit
def count_buckets(buckets: Any, count: int, tables: Any) -> None:
    """How many elements of each half of a row are in each bucket, into `tables` 0 and 1, and in
    lower ones, into 2. Neither half waits for the counters of the other."""
    low, high, starts = tables[0], tables[1], tables[2]
    length = len(buckets)
    half = length // 2
    low[:count] = 0
    high[:count] = 0
    for j in range(half):
        low[buckets[j]] += _ONE
        high[buckets[j + half]] += _ONE
    if length % 2:
        high[buckets[length - 1]] += _ONE
    total = _NONE
    for bucket in range(count):
        starts[bucket] = total
        total = np.uint32(total + np.uint32(low[bucket] + high[bucket]))
    starts[count] = total


@jit
def place_by_bucket(buckets: Any, count: int, tables: Any, places: Any) -> None:
    """The place of each element if the row were sorted by bucket. Overwrites the counts."""
    low, high, starts = tables[0], tables[1], tables[2]
    for bucket in range(count):
        before = low[bucket]
        low[bucket] = starts[bucket]
        high[bucket] = np.uint32(starts[bucket] + before)
    length = len(buckets)
    half = length // 2
    for j in range(half):
        one, other = buckets[j], buckets[j + half]
        places[j] = low[one]
        places[j + half] = high[other]
        low[one] += _ONE
        high[other] += _ONE
    if length % 2:
        places[length - 1] = high[buckets[length - 1]]
