"""Masks by rank: which elements stay if each is drawn with the limit of its rank in its row.

Limits ascend with the rank, so ranks need not be known but for few elements. A row is counted by
buckets of magnitude: all elements of a bucket have ranks between those of its ends, and one whose
word is not between the limits of these is decided. What is left is ranked exactly: in a bucket of
equal magnitudes by counting as well, else against all of the row, and if that were too much for a
row, by sorting it. The cost of a row of any values is at most that of a radix sort and some.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels.numba.jit import jit
from mergebuild.kernels.numba.masks import hash_words
from mergebuild.kernels.numba.numbers import TILE, load_delta

DIGITS: Final = 2048
MOST_BITS: Final = 11
OCTAVES: Final = 12
"""Magnitudes below 2**-12 times the largest of a row share a bucket."""

_BITS: Final = 11
_SHORT: Final = 32
_OPEN: Final = 32
_MANTISSA: Final = 23
_SIZE = np.uint32(0x7FFFFFFF)
_ONE, _NONE = np.uint32(1), np.uint32(0)
_ZERO = np.float32(0.0)


def bucket_bits(length: int) -> int:
    """Bits of the mantissa that tell buckets of rows of a length apart."""
    return min(MOST_BITS, max(0, (length // 64).bit_length() - 1))


def bucket_count(length: int) -> int:
    """The most buckets that a row has: zero, and two for each interval of magnitudes."""
    return 2 * (OCTAVES << bucket_bits(length)) + 1


@jit
def draw_by_rank(
    raw: Any,
    codes: Any,
    delta: int,
    length: int,
    count: int,
    element: int,
    stream: Any,
    limits: Any,
    factors: Any,
    bits: int,
    base: Any,
    numbers: Any,
    buckets: Any,
    tables: Any,
    kept: Any,
    scaled: Any,
) -> None:
    """Fill `kept`, uint8, for whole rows of one delta with ones and zeros, or `scaled`, float32,
    with the factor of each element's rank in place of ones, if there are `factors`.

    `limits`, uint32, are those of every rank and the last once more. Scratch: float32 `base` (TILE); for
    the greater of TILE and `length`, uint32 `numbers` (6, …) and uint16 `buckets`; uint32 `tables`
    (4, …) for `bucket_count` and one, and no fewer than DIGITS.
    """
    step = max(1, TILE // length) * length
    for start in range(0, count, step):
        run = min(step, count - start)
        keys, words = numbers[0, :run], numbers[1, :run]
        _load_keys(raw, codes, delta, start, run, base, keys)
        hash_words(stream, element + start, words)
        for row in range(0, run, length):
            end = row + length
            _draw_row(
                keys[row:end],
                words[row:end],
                limits,
                factors,
                bits,
                numbers[2:],
                buckets[:length],
                tables,
                kept[start + row : start + end],
                scaled[start + row : start + end],
            )


@jit
def _load_keys(
    raw: Any, codes: Any, delta: int, start: int, count: int, base: Any, keys: Any
) -> None:
    """The 31 bits of |d|, which order as the magnitudes do."""
    values = keys.view(np.float32)
    for done in range(0, count, TILE):
        part = min(TILE, count - done)
        load_delta(raw, codes, delta, start + done, part, base, values[done : done + part])
    for j in range(count):
        keys[j] = keys[j] & _SIZE


@jit
def _draw_row(
    keys: Any,
    words: Any,
    limits: Any,
    factors: Any,
    bits: int,
    numbers: Any,
    buckets: Any,
    tables: Any,
    kept: Any,
    scaled: Any,
) -> None:
    length = len(keys)
    order, places = numbers[0, :length], numbers[1, :length]
    if length <= _SHORT:
        for j in range(length):
            order[j] = np.uint32(j)
        _insert(keys, order)
    else:
        count = _bucket(keys, bits, buckets)
        _count(buckets, count, tables)
        if len(factors) == 0 and _decide(
            keys, words, limits, buckets, count, tables, order, places, kept
        ):
            return
        if not _order(keys, buckets, count, tables, places, order):
            _sort(keys, numbers[1:], order, tables[0])
    if len(factors) == 0:
        for rank in range(length):
            at = order[rank]
            kept[at] = words[at] < limits[rank]
    else:
        for rank in range(length):
            at = order[rank]
            scaled[at] = factors[rank] if words[at] < limits[rank] else _ZERO


@jit
def _bucket(keys: Any, bits: int, buckets: Any) -> int:
    """The bucket of each key, ascending with it; the number of buckets.

    Keys share a bucket if they share exponent and the first `bits` of the mantissa, except those
    whose other bits are 0, which have one of their own beside it: differences of short floats are
    often such. So all keys in a bucket are equal if it is 0, for zeros, or odd, but for 1, where
    small ones are.
    """
    shift = np.uint32(_MANTISSA - bits)
    top = _NONE
    for j in range(len(keys)):
        top = max(top, keys[j])
    last = np.int64(top >> shift)
    least = max(0, last + 1 - (OCTAVES << bits))
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
def _alone(bucket: Any) -> Any:
    """Whether all keys in a bucket are equal."""
    return (bucket == 0) | (((bucket & 1) == 1) & (bucket != 1))


@jit
def _count(buckets: Any, count: int, tables: Any) -> None:
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
def _decide(
    keys: Any,
    words: Any,
    limits: Any,
    buckets: Any,
    count: int,
    tables: Any,
    left: Any,
    places: Any,
    kept: Any,
) -> bool:
    """Fill `kept` with ones and zeros, or say that too many would have to be ranked one by one."""
    starts, edges = tables[2], tables[3]
    for bucket in range(count + 1):
        edges[bucket] = limits[starts[bucket]]
    least, width = limits[0], np.uint32(limits[len(keys)] - limits[0])
    for j in range(len(words)):
        kept[j] = words[j] < least
    some = 0
    for j in range(len(words)):
        left[some] = np.uint32(j)
        some += np.uint32(words[j] - least) < width
    found = 0
    for i in range(some):
        j = left[i]
        bucket = buckets[j]
        edge = edges[bucket]
        kept[j] = words[j] < edge
        left[found] = j
        found += np.uint32(words[j] - edge) < np.uint32(edges[bucket + 1] - edge)
    equal, several = 0, 0
    for i in range(found):
        j = left[i]
        if _alone(buckets[j]):
            places[equal] = j
            equal += 1
        else:
            left[several] = j
            several += 1
    if several > _OPEN:
        return False
    for i in range(several):
        j = left[i]
        kept[j] = words[j] < limits[_rank(keys, np.int64(j))]
    if equal <= 2 * _OPEN:
        for i in range(equal):
            j = places[i]
            rank = starts[buckets[j]] + _equal(buckets, np.int64(j), tables[0])
            kept[j] = words[j] < limits[rank]
        return True
    left[:equal] = places[:equal]
    _place(buckets, count, tables, places)
    for i in range(equal):
        j = left[i]
        kept[j] = words[j] < limits[places[j]]
    return True


@jit
def _rank(keys: Any, at: int) -> Any:
    """The rank of one element."""
    key, rank = keys[at], _NONE
    before, after = keys[:at], keys[at + 1 :]
    for j in range(len(before)):
        rank = np.uint32(rank + (_ONE if before[j] <= key else _NONE))
    for j in range(len(after)):
        rank = np.uint32(rank + (_ONE if after[j] < key else _NONE))
    return rank


@jit
def _equal(buckets: Any, at: int, low: Any) -> Any:
    """How many elements before one are in its bucket, given how many of the first half are."""
    bucket, half = buckets[at], len(buckets) // 2
    found = low[bucket] if at >= half else _NONE
    before = buckets[half:at] if at >= half else buckets[:at]
    for j in range(len(before)):
        found = np.uint32(found + (_ONE if before[j] == bucket else _NONE))
    return found


@jit
def _place(buckets: Any, count: int, tables: Any, places: Any) -> None:
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


@jit
def _order(keys: Any, buckets: Any, count: int, tables: Any, places: Any, order: Any) -> bool:
    """The elements of a row by rank, or False if a bucket is so full that sorting takes less."""
    starts = tables[2]
    moves = 0
    for bucket in range(count):
        if not _alone(bucket):
            inside = np.int64(starts[bucket + 1]) - np.int64(starts[bucket])
            moves += inside * inside
    if moves > _SHORT * len(keys):
        return False
    _place(buckets, count, tables, places)
    for j in range(len(keys)):
        order[places[j]] = np.uint32(j)
    for bucket in range(count):
        if not _alone(bucket):
            _insert(keys, order[starts[bucket] : starts[bucket + 1]])
    return True


@jit
def _insert(keys: Any, places: Any) -> None:
    """Sort elements by their keys, stably."""
    for i in range(1, len(places)):
        place = places[i]
        key = keys[place]
        at = i
        while at > 0 and keys[places[at - 1]] > key:
            places[at] = places[at - 1]
            at -= 1
        places[at] = place


@jit
def _sort(keys: Any, numbers: Any, order: Any, counts: Any) -> None:
    """The elements of a row by rank, by a radix sort. Scratch: uint32 (3, …) and (DIGITS)."""
    length = len(keys)
    one, two, places = numbers[0, :length], numbers[1, :length], numbers[2, :length]
    for j in range(length):
        order[j] = np.uint32(j)
    _sort_by(keys, order, one, places, 0, counts)
    _sort_by(one, places, two, order, _BITS, counts)
    _sort_by(two, order, one, places, 2 * _BITS, counts)
    order[:] = places


@jit
def _sort_by(keys: Any, places: Any, keys_to: Any, places_to: Any, shift: int, counts: Any) -> None:
    """One stable pass, by the bits from `shift` on."""
    bits, mask = np.uint32(shift), np.uint32(DIGITS - 1)
    counts[:DIGITS] = 0
    for j in range(len(keys)):
        counts[(keys[j] >> bits) & mask] += _ONE
    total = _NONE
    for digit in range(DIGITS):
        found = counts[digit]
        counts[digit] = total
        total = np.uint32(total + found)
    for j in range(len(keys)):
        digit = (keys[j] >> bits) & mask
        at = counts[digit]
        counts[digit] = at + _ONE
        keys_to[at] = keys[j]
        places_to[at] = places[j]
