"""Counting values by the halves of their keys, with the sums of squares that go with them.

Squares are summed block by block: those of a block in order, from 0 on, then added to the total.
Of a block's sums only groups that were touched are added and cleared.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels.numba.jit import jit
from mergebuild.kernels.numba.numbers import TILE
from mergebuild.kernels.numba.values import derive, order
from mergebuild.kernels.operations import BLOCK

SIZE: Final = 2**16
GROUPS: Final = 2**10

_ACROSS: Final = SIZE // GROUPS
_RUN: Final = 32


@jit
def count_values_high(
    kind: int,
    raw: Any,
    codes: Any,
    numbers: Any,
    place: int,
    count: int,
    squares: bool,
    floats: Any,
    doubles: Any,
    values: Any,
    keys: Any,
    counts: Any,
    touched: Any,
    block_sums: Any,
    sums: Any,
) -> int:
    """Add to `counts`, int64 (2 lanes, SIZE), and to `sums`, float64 (deltas, SIZE); tell how many
    values are ±0.

    Scratch: as `derive`; float32 (TILE), uint32 (TILE), and, all 0 before and after, uint8
    (GROUPS) and float64 (deltas, SIZE).
    """
    even, odd = counts[0], counts[1]
    zeros: Any = 0
    for block in range(0, count, BLOCK):
        for start in range(block, min(block + BLOCK, count), TILE):
            part = min(TILE, count - start)
            derive(kind, raw, codes, numbers, place, start, part, floats, doubles, values)
            order(values, part, keys)
            for j in range(part):
                zeros += values[j] == np.float32(0.0)
            for j in range(part):
                keys[j] >>= np.uint32(16)
            for j in range(0, part - 1, 2):
                even[keys[j]] += 1
                odd[keys[j + 1]] += 1
            if part % 2:
                even[keys[part - 1]] += 1
            if squares:
                for j in range(part):
                    touched[keys[j] // _ACROSS] = 1
                for i in range(len(sums)):
                    delta, into = floats[1 + i], block_sums[i]
                    for j in range(part):
                        wide = np.float64(delta[j])
                        into[keys[j]] += wide * wide
        if squares:
            _add_block(touched, block_sums, sums)
    return int(zeros)


@jit
def count_values_low(
    kind: int,
    raw: Any,
    codes: Any,
    numbers: Any,
    place: int,
    count: int,
    buckets: Any,
    squares: bool,
    floats: Any,
    doubles: Any,
    values: Any,
    keys: Any,
    places: Any,
    counts: Any,
    touched: Any,
    block_sums: Any,
    sums: Any,
) -> None:
    """Add to `counts`, int64 (buckets, SIZE), and to `sums`, float64 (buckets, deltas, SIZE).

    Scratch: as `derive`; float32 (TILE), uint32 (TILE), int64 (TILE), and, all 0 before and after,
    uint8 (buckets, GROUPS) and float64 (buckets, deltas, SIZE).
    """
    for block in range(0, count, BLOCK):
        for start in range(block, min(block + BLOCK, count), TILE):
            part = min(TILE, count - start)
            derive(kind, raw, codes, numbers, place, start, part, floats, doubles, values)
            order(values, part, keys)
            for b in range(len(buckets)):
                found = _find(keys, part, np.uint32(buckets[b]), places)
                chosen = counts[b]
                for f in range(found):
                    chosen[keys[places[f]] & np.uint32(0xFFFF)] += 1
                if squares:
                    for f in range(found):
                        low = keys[places[f]] & np.uint32(0xFFFF)
                        touched[b, low // _ACROSS] = 1
                        for i in range(sums.shape[1]):
                            wide = np.float64(floats[1 + i, places[f]])
                            block_sums[b, i, low] += wide * wide
        if squares:
            for b in range(len(buckets)):
                _add_block(touched[b], block_sums[b], sums[b])


@jit
def _find(keys: Any, count: int, bucket: Any, places: Any) -> Any:
    """Where keys have this high half: `places`, ascending, and how many."""
    found: Any = 0
    for first in range(0, count, _RUN):
        run = keys[first : min(first + _RUN, count)]
        here = np.uint32(0)
        for j in range(len(run)):
            here |= np.uint32((run[j] >> np.uint32(16)) == bucket)
        if here == np.uint32(0):
            continue
        for j in range(len(run)):  # no branch: what is not wanted is overwritten
            places[found] = first + j
            found += (run[j] >> np.uint32(16)) == bucket
    return found


@jit
def _add_block(touched: Any, block_sums: Any, sums: Any) -> None:
    """Add the sums of a block to the total, and clear them."""
    for group in range(GROUPS):
        if touched[group] == 0:
            continue
        touched[group] = 0
        for i in range(len(sums)):
            first = group * _ACROSS
            block, total = block_sums[i, first : first + _ACROSS], sums[i, first : first + _ACROSS]
            for j in range(_ACROSS):
                total[j] = total[j] + block[j]
                block[j] = 0.0
