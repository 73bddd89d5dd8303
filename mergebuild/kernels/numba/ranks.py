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

from mergebuild.kernels.numba.buckets import alone, count_buckets, find_buckets, place_by_bucket
from mergebuild.kernels.numba.jit import jit
from mergebuild.kernels.numba.masks import hash_words
from mergebuild.kernels.numba.numbers import TILE, load_delta
from mergebuild.kernels.numba.sorting import insert, order_by_bucket, sort

_SHORT: Final = 32
_OPEN: Final = 32  # as many are ranked one by one: what sorting the row would take
_EQUAL: Final = 96
_LONG: Final = 2**16  # halves of shorter rows are counted in 16 bits
_SIZE = np.uint32(0x7FFFFFFF)
_ONE, _NONE = np.uint32(1), np.uint32(0)
_ZERO = np.float32(0.0)


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

    `limits`, uint32, are those of every rank and the last once more. Scratch: float32 `base`
    (TILE); for the greater of TILE and `length`, uint32 `numbers` (6, …) and uint16 `buckets`;
    uint32 `tables` (4, …) for `bucket_count` and one, and no fewer than DIGITS.
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
        insert(keys, order)
    else:
        count = find_buckets(keys, bits, buckets)
        count_buckets(buckets, count, tables)
        if len(factors) == 0 and _decide(
            keys, words, limits, buckets, count, tables, order, places, kept
        ):
            return
        if not order_by_bucket(keys, buckets, count, tables, places, order):
            sort(keys, numbers[1:], order, tables[0])
    if len(factors) == 0:
        for rank in range(length):
            at = order[rank]
            kept[at] = words[at] < limits[rank]
    else:
        for rank in range(length):
            at = order[rank]
            scaled[at] = factors[rank] if words[at] < limits[rank] else _ZERO


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
    some: Any = 0
    for j in range(len(words)):
        left[some] = np.uint32(j)
        some += np.uint32(words[j] - least) < width
    found: Any = 0
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
        if alone(buckets[j]):
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
    if equal <= _EQUAL and len(keys) < _LONG:
        for i in range(equal):
            j = places[i]
            rank = starts[buckets[j]] + _equal(buckets, np.int64(j), tables[0])
            kept[j] = words[j] < limits[rank]
        return True
    left[:equal] = places[:equal]
    place_by_bucket(buckets, count, tables, places)
    for i in range(equal):
        j = left[i]
        kept[j] = words[j] < limits[places[j]]
    return True


@jit
def _rank(keys: Any, at: Any) -> Any:
    """The rank of one element."""
    key, rank = keys[at], _NONE
    before, after = keys[:at], keys[at + 1 :]
    for j in range(len(before)):
        rank = np.uint32(rank + (_ONE if before[j] <= key else _NONE))
    for j in range(len(after)):
        rank = np.uint32(rank + (_ONE if after[j] < key else _NONE))
    return rank


@jit
def _equal(buckets: Any, at: Any, low: Any) -> Any:
    """How many elements before one are in its bucket, given how many of the first half are."""
    bucket, half = buckets[at], len(buckets) // 2
    found = low[bucket] if at >= half else _NONE
    before = buckets[half:at] if at >= half else buckets[:at]
    short = np.uint16(0)
    for j in range(len(before)):
        short = np.uint16(short + np.uint16(before[j] == bucket))
    return np.uint32(found + np.uint32(short))
