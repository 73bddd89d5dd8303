"""Σ|d| before and after a mask in float64, summed in the one order that `operations` defines.

Where elements are a power of two they are taken as 8 runs, folded in registers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mergebuild.kernels.numba.jit import jit
from mergebuild.kernels.numba.masks import GIVEN, fill_mask
from mergebuild.kernels.numba.numbers import TILE, load_delta
from mergebuild.kernels.numba.sums import fold


@jit
def absolute_block(
    raw: Any,
    codes: Any,
    delta: int,
    kind: int,
    bounds: Any,
    stream: Any,
    limit: Any,
    given: Any,
    element: int,
    start: int,
    count: int,
    floats: Any,
    doubles: Any,
    sums: Any,
) -> None:
    """Put Σ|d| of a block or row, before and after a mask, into `sums`.

    Scratch: float32 (3, TILE), float64 (2, count).
    """
    base, values, kept = floats[0], floats[1], floats[2]
    before, after = doubles[0], doubles[1]
    runs = 8 if count >= TILE // 8 and count & (count - 1) == 0 else 1
    lanes = count // runs
    for lane in range(0, lanes, TILE // runs):
        width = min(TILE // runs, lanes - lane)
        joined = runs * width if width == lanes else width  # runs that stand side by side
        for run in range(0, runs * width, joined):
            at = start + lane + run // width * lanes
            some, stay = values[run : run + joined], kept[run : run + joined]
            load_delta(raw, codes, delta, at, joined, base, some)
            if kind == GIVEN:
                there = given[at : at + joined]
                for j in range(joined):
                    stay[j] = np.float32(there[j])
            else:
                fill_mask(kind, bounds, stream, limit, element + at, some, joined, stay)
        first, second = before[lane : lane + width], after[lane : lane + width]
        if runs == 8:
            _fold_runs(values, kept, first, second)
        else:
            for j in range(width):
                size = abs(np.float64(values[j]))
                first[j] = size
                second[j] = size * np.float64(kept[j])
    fold(before, lanes, 1)
    fold(after, lanes, 1)
    sums[0] = before[0]
    sums[1] = after[0]


@jit
def _fold_runs(values: Any, kept: Any, before: Any, after: Any) -> None:
    """Σ|d| over the 8 runs of a tile, before and after a mask, first with fifth and so on."""
    w = len(before)
    v0, v1, v2, v3 = values[:w], values[w : 2 * w], values[2 * w : 3 * w], values[3 * w : 4 * w]
    v4, v5 = values[4 * w : 5 * w], values[5 * w : 6 * w]
    v6, v7 = values[6 * w : 7 * w], values[7 * w : 8 * w]
    for j in range(w):
        a = _size(v0[j]) + _size(v4[j])
        b = _size(v2[j]) + _size(v6[j])
        c = _size(v1[j]) + _size(v5[j])
        d = _size(v3[j]) + _size(v7[j])
        before[j] = (a + b) + (c + d)
    k0, k1, k2, k3 = kept[:w], kept[w : 2 * w], kept[2 * w : 3 * w], kept[3 * w : 4 * w]
    k4, k5 = kept[4 * w : 5 * w], kept[5 * w : 6 * w]
    k6, k7 = kept[6 * w : 7 * w], kept[7 * w : 8 * w]
    for j in range(w):
        a = _size(v0[j]) * np.float64(k0[j]) + _size(v4[j]) * np.float64(k4[j])
        b = _size(v2[j]) * np.float64(k2[j]) + _size(v6[j]) * np.float64(k6[j])
        c = _size(v1[j]) * np.float64(k1[j]) + _size(v5[j]) * np.float64(k5[j])
        d = _size(v3[j]) * np.float64(k3[j]) + _size(v7[j]) * np.float64(k7[j])
        after[j] = (a + b) + (c + d)


@jit
def _size(value: Any) -> Any:
    return abs(np.float64(value))


@jit
def absolute_sums(
    raw: Any,
    codes: Any,
    delta: int,
    kind: int,
    bounds: Any,
    stream: Any,
    limit: Any,
    given: Any,
    element: int,
    length: int,
    count: int,
    floats: Any,
    doubles: Any,
    sums: Any,
) -> None:
    """`absolute_block` of one block or row of `length` after the other, into `sums` (blocks, 2)."""
    for start in range(0, count, length):
        part = min(length, count - start)
        absolute_block(
            raw,
            codes,
            delta,
            kind,
            bounds,
            stream,
            limit,
            given,
            element,
            start,
            part,
            floats,
            doubles,
            sums[start // length],
        )
