"""Counting values by the halves of their keys."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels.numba.jit import jit
from mergebuild.kernels.numba.numbers import TILE
from mergebuild.kernels.numba.values import derive, order

SIZE: Final = 2**16

_RUN: Final = 32


@jit
def count_values_high(
    kind: int,
    raw: Any,
    codes: Any,
    numbers: Any,
    place: int,
    count: int,
    floats: Any,
    doubles: Any,
    values: Any,
    keys: Any,
    counts: Any,
) -> None:
    """Add to `counts`, int64 (2 lanes, SIZE).

    Scratch: as `derive`; float32 (TILE), uint32 (TILE).
    """
    even, odd = counts[0], counts[1]
    for start in range(0, count, TILE):
        part = min(TILE, count - start)
        derive(kind, raw, codes, numbers, place, start, part, floats, doubles, values)
        order(values, part, keys)
        for j in range(part):
            keys[j] >>= np.uint32(16)
        for j in range(0, part - 1, 2):
            even[keys[j]] += 1
            odd[keys[j + 1]] += 1
        if part % 2:
            even[keys[part - 1]] += 1


@jit
def count_values_low(
    kind: int,
    raw: Any,
    codes: Any,
    numbers: Any,
    place: int,
    count: int,
    floats: Any,
    doubles: Any,
    values: Any,
    buckets: Any,
    keys: Any,
    places: Any,
    counts: Any,
) -> None:
    """Add to `counts`, int64 (buckets, SIZE).

    Scratch: as `derive`; float32 (TILE), uint32 (TILE), int64 (TILE).
    """
    for start in range(0, count, TILE):
        part = min(TILE, count - start)
        derive(kind, raw, codes, numbers, place, start, part, floats, doubles, values)
        order(values, part, keys)
        for b in range(len(buckets)):
            found = _find(keys, part, np.uint32(buckets[b]), places)
            chosen = counts[b]
            for f in range(found):
                chosen[keys[places[f]] & np.uint32(0xFFFF)] += 1


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
