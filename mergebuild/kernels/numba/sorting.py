"""The elements of a row by rank: ascending keys, equal ones by place."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels.numba.buckets import alone, place_by_bucket
from mergebuild.kernels.numba.jit import jit

DIGITS: Final = 2048

_BITS: Final = 11
_FULL: Final = 32
_ONE, _NONE = np.uint32(1), np.uint32(0)


@jit
def order_by_bucket(
    keys: Any, buckets: Any, count: int, tables: Any, places: Any, order: Any
) -> bool:
    """The elements of a row by rank, or False if a bucket is so full that sorting takes less."""
    starts = tables[2]
    moves: Any = 0
    for bucket in range(count):
        if not alone(bucket):
            inside = np.int64(starts[bucket + 1]) - np.int64(starts[bucket])
            moves += inside * inside
    if moves > _FULL * len(keys):
        return False
    place_by_bucket(buckets, count, tables, places)
    for j in range(len(keys)):
        order[places[j]] = np.uint32(j)
    for bucket in range(count):
        if not alone(bucket):
            insert(keys, order[starts[bucket] : starts[bucket + 1]])
    return True


@jit
def insert(keys: Any, places: Any) -> None:
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
def sort(keys: Any, numbers: Any, order: Any, counts: Any) -> None:
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
