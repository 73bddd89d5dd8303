"""Counting the bits of magnitudes: the high 15 of the 31, and the low 16 inside chosen buckets."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels.numba.jit import jit
from mergebuild.kernels.numba.numbers import TILE, load, load_vector

HIGH: Final = 2**15
LOW: Final = 2**16

_GROUP: Final = 32
_SIZE = np.uint32(0x7FFFFFFF)


@jit
def count_high(
    raw: Any, codes: Any, delta: int, sums: bool, count: int, floats: Any, counts: Any
) -> None:
    """Add to `counts`, int64 (2 lanes, 2, HIGH), how many and the sum of their low halves.

    Neighbours, which are often equal, go to different lanes: the one need not wait for the other.
    """
    base, values = floats[0], floats[1]
    keys = values.view(np.uint32)
    even, odd = counts[0, 0], counts[1, 0]
    even_sums, odd_sums = counts[0, 1], counts[1, 1]
    for done in range(0, count, TILE):
        part = min(TILE, count - done)
        load(raw[0], codes[0], done, part, base)
        load_vector(raw, codes, delta, True, done, part, base, values)
        for j in range(0, part - 1, 2):
            first, second = keys[j] & _SIZE, keys[j + 1] & _SIZE
            even[first >> np.uint32(16)] += 1
            odd[second >> np.uint32(16)] += 1
            if sums:
                even_sums[first >> np.uint32(16)] += first & np.uint32(0xFFFF)
                odd_sums[second >> np.uint32(16)] += second & np.uint32(0xFFFF)
        if part % 2:
            last = keys[part - 1] & _SIZE
            even[last >> np.uint32(16)] += 1
            if sums:
                even_sums[last >> np.uint32(16)] += last & np.uint32(0xFFFF)


@jit
def count_low(
    raw: Any,
    codes: Any,
    delta: int,
    buckets: Any,
    count: int,
    floats: Any,
    inside: Any,
    counts: Any,
) -> None:
    """Add to `counts`, int64 (buckets, LOW). Scratch `inside`: uint16 (TILE)."""
    base, values = floats[0], floats[1]
    keys = values.view(np.uint32)
    for done in range(0, count, TILE):
        part = min(TILE, count - done)
        load(raw[0], codes[0], done, part, base)
        load_vector(raw, codes, delta, True, done, part, base, values)
        for b in range(len(buckets)):
            bucket = np.uint32(buckets[b])
            found = 0
            for first in range(0, part, _GROUP):
                group = keys[first : min(first + _GROUP, part)]
                here = np.uint32(0)
                for j in range(len(group)):
                    here |= np.uint32(((group[j] & _SIZE) >> np.uint32(16)) == bucket)
                if here == np.uint32(0):
                    continue
                for j in range(len(group)):  # no branch: what is not wanted is overwritten
                    key = group[j] & _SIZE
                    inside[found] = np.uint16(key & np.uint32(0xFFFF))
                    found += (key >> np.uint32(16)) == bucket
            chosen = counts[b]
            for j in range(found):
                chosen[inside[j]] += 1
