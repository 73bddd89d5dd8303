"""Inner products in float64, summed in the one order that `operations` defines.

A full block of 65,536 elements is taken as 8 runs of 8,192 lanes: a lane's 8 products are
folded in registers, and the lanes in cache. What is shorter is written out and folded whole.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels.numba.jit import jit
from mergebuild.kernels.numba.numbers import TILE, load, load_vector, subtract
from mergebuild.kernels.operations import BLOCK

LANES: Final = BLOCK // 8
_WIDTH: Final = TILE // 8


@jit
def fold(values: Any, length: int, width: int) -> None:
    """Sum vectors of `width` that stand one after the other, in halves, into the first."""
    while length > 1:
        half = 1
        while 2 * half < length:
            half *= 2
        low = values[: (length - half) * width]
        high = values[half * width : length * width]
        for j in range(len(low)):
            low[j] = low[j] + high[j]
        length = half


@jit
def _lanes(u: Any, v: Any, into: Any) -> None:
    """Σ u·v over the 8 runs of a tile."""
    w = _WIDTH
    u0, u1, u2, u3 = u[:w], u[w : 2 * w], u[2 * w : 3 * w], u[3 * w : 4 * w]
    u4, u5, u6, u7 = u[4 * w : 5 * w], u[5 * w : 6 * w], u[6 * w : 7 * w], u[7 * w : 8 * w]
    v0, v1, v2, v3 = v[:w], v[w : 2 * w], v[2 * w : 3 * w], v[3 * w : 4 * w]
    v4, v5, v6, v7 = v[4 * w : 5 * w], v[5 * w : 6 * w], v[6 * w : 7 * w], v[7 * w : 8 * w]
    for j in range(w):
        a = _product(u0[j], v0[j]) + _product(u4[j], v4[j])
        b = _product(u2[j], v2[j]) + _product(u6[j], v6[j])
        c = _product(u1[j], v1[j]) + _product(u5[j], v5[j])
        d = _product(u3[j], v3[j]) + _product(u7[j], v7[j])
        into[j] = (a + b) + (c + d)


@jit
def _product(u: Any, v: Any) -> Any:
    return np.float64(u) * np.float64(v)


@jit
def _load_runs(raw: Any, code: int, start: int, into: Any) -> None:
    for run in range(8):
        part = into[run * _WIDTH : (run + 1) * _WIDTH]
        load(raw, code, start + run * LANES, _WIDTH, part)


@jit
def gram_block(
    raw: Any, codes: Any, deltas: bool, start: int, floats: Any, lanes: Any, sums: Any
) -> None:
    """Inner products of all pairs of vectors over a full block, into `sums`.

    Scratch: float32 (1 + vectors, TILE), float64 (pairs, LANES).
    """
    base = floats[0]
    for lane in range(0, LANES, _WIDTH):
        if deltas:
            _load_runs(raw[0], codes[0], start + lane, base)
        for i in range(1, len(floats)):
            operand = i if deltas else i - 1
            _load_runs(raw[operand], codes[operand], start + lane, floats[i])
            if deltas:
                subtract(floats[i], base, TILE)
        pair = 0
        for i in range(1, len(floats)):
            for k in range(i, len(floats)):
                _lanes(floats[i], floats[k], lanes[pair, lane : lane + _WIDTH])
                pair += 1
    for pair in range(len(lanes)):
        fold(lanes[pair], LANES, 1)
        sums[pair] = lanes[pair, 0]


@jit
def load_wide(
    raw: Any,
    codes: Any,
    deltas: bool,
    start: int,
    count: int,
    floats: Any,
    doubles: Any,
    place: int,
) -> None:
    """All vectors of a run of elements as float64, into `doubles` from `place` on."""
    base, values = floats[0], floats[1]
    for done in range(0, count, TILE):
        part = min(TILE, count - done)
        if deltas:
            load(raw[0], codes[0], start + done, part, base)
        for i in range(len(doubles)):
            load_vector(raw, codes, i, deltas, start + done, part, base, values)
            wide = doubles[i, place + done : place + done + part]
            for j in range(part):
                wide[j] = np.float64(values[j])


@jit
def gram_pairs(doubles: Any, length: int, width: int, scratch: Any, sums: Any) -> None:
    """Σ over `length` of the products of all pairs of vectors of `width`, into `sums`."""
    pair = 0
    for i in range(len(doubles)):
        for k in range(i, len(doubles)):
            u, v = doubles[i], doubles[k]
            for j in range(length * width):
                scratch[j] = u[j] * v[j]
            fold(scratch, length, width)
            for j in range(width):
                sums[pair, j] = scratch[j]
            pair += 1


@jit
def gram_rows(
    raw: Any,
    codes: Any,
    deltas: bool,
    rows: int,
    length: int,
    floats: Any,
    doubles: Any,
    scratch: Any,
    sums: Any,
) -> None:
    """`gram_pairs` of each row, into `sums` (rows, pairs, 1)."""
    for row in range(rows):
        load_wide(raw, codes, deltas, row * length, length, floats, doubles, 0)
        gram_pairs(doubles, length, 1, scratch, sums[row])


@jit
def gram_columns(
    raw: Any,
    codes: Any,
    deltas: bool,
    start: int,
    rows: int,
    columns: int,
    width: int,
    floats: Any,
    doubles: Any,
    scratch: Any,
    sums: Any,
) -> None:
    """`gram_pairs` of each column over some whole rows, `width` columns at a time."""
    for column in range(0, columns, width):
        part = min(width, columns - column)
        if part == columns:
            load_wide(raw, codes, deltas, start, rows * columns, floats, doubles, 0)
        else:
            for row in range(rows):
                at = start + row * columns + column
                load_wide(raw, codes, deltas, at, part, floats, doubles, row * part)
        gram_pairs(doubles, rows, part, scratch, sums[:, column : column + part])
