"""Masks by rank: rows are sorted by magnitude, stably; each element is drawn with its own limit."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels.numba.jit import jit
from mergebuild.kernels.numba.masks import mix
from mergebuild.kernels.numba.numbers import TILE, load, load_vector
from mergebuild.kernels.random import GOLDEN

BUCKETS: Final = 2048
_BITS: Final = 11
_GOLDEN: Final = np.uint64(GOLDEN)
_SIZE = np.uint32(0x7FFFFFFF)
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
    floats: Any,
    keys: Any,
    places: Any,
    counts: Any,
    kept: Any,
) -> None:
    """Fill `kept` for whole rows of one delta: the factor of its rank, or 0.

    `limits`, uint32, and `factors`, float32, are those of every rank. Scratch: float32 (2, TILE),
    uint32 (2, length) `keys` and `places`, int64 (BUCKETS).
    """
    base, values = floats[0], floats[1]
    words = values.view(np.uint32)
    for row in range(0, count, length):
        for done in range(0, length, TILE):
            part = min(TILE, length - done)
            load(raw[0], codes[0], row + done, part, base)
            load_vector(raw, codes, delta, True, row + done, part, base, values)
            for j in range(part):
                keys[0, done + j] = words[j] & _SIZE
        for j in range(length):
            places[0, j] = np.uint32(j)
        for step in range(3):
            here, there = step % 2, 1 - step % 2
            _sort(keys[here], places[here], keys[there], places[there], step * _BITS, counts)
        order = places[1]
        for rank in range(length):
            at = row + np.int64(order[rank])
            index = np.uint64(element + at)
            low = np.uint32(index & np.uint64(0xFFFFFFFF))
            upper = np.uint32((index >> np.uint64(32)) * _GOLDEN)
            salt = np.uint32(upper ^ stream[1])
            word = mix(np.uint32(mix(np.uint32(low ^ stream[0])) + salt))
            kept[at] = factors[rank] if word < limits[rank] else _ZERO


@jit
def _sort(keys: Any, places: Any, keys_to: Any, places_to: Any, shift: int, counts: Any) -> None:
    """One stable pass of a radix sort, by the bits from `shift` on."""
    bits, mask = np.uint32(shift), np.uint32(BUCKETS - 1)
    counts[:] = 0
    for j in range(len(keys)):
        counts[(keys[j] >> bits) & mask] += 1
    total = 0
    for bucket in range(BUCKETS):
        found = counts[bucket]
        counts[bucket] = total
        total += found
    for j in range(len(keys)):
        key = keys[j]
        bucket = (key >> bits) & mask
        at = counts[bucket]
        counts[bucket] = at + 1
        keys_to[at] = key
        places_to[at] = places[j]
