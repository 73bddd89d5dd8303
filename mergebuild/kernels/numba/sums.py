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
    for j in range(w):
        a = u[j] * v[j] + u[j + 4 * w] * v[j + 4 * w]
        b = u[j + 2 * w] * v[j + 2 * w] + u[j + 6 * w] * v[j + 6 * w]
        c = u[j + w] * v[j + w] + u[j + 5 * w] * v[j + 5 * w]
        d = u[j + 3 * w] * v[j + 3 * w] + u[j + 7 * w] * v[j + 7 * w]
        into[j] = (a + b) + (c + d)


@jit
def _load_runs(raw: Any, code: int, start: int, into: Any) -> None:
    for run in range(8):
        part = into[run * _WIDTH : (run + 1) * _WIDTH]
        load(raw, code, start + run * LANES, _WIDTH, part)


@jit
def gram_block(
    raw: Any, codes: Any, deltas: bool, start: int, floats: Any, doubles: Any, lanes: Any, sums: Any
) -> None:
    """Inner products of all pairs of vectors over a full block, into `sums`.

    Scratch: float32 (2, TILE), float64 (vectors, TILE), float64 (pairs, LANES).
    """
    base, values = floats[0], floats[1]
    for lane in range(0, LANES, _WIDTH):
        if deltas:
            _load_runs(raw[0], codes[0], start + lane, base)
        for i in range(len(doubles)):
            operand = i + 1 if deltas else i
            _load_runs(raw[operand], codes[operand], start + lane, values)
            if deltas:
                subtract(values, base, TILE)
            wide = doubles[i]
            for j in range(TILE):
                wide[j] = np.float64(values[j])
        pair = 0
        for i in range(len(doubles)):
            for k in range(i, len(doubles)):
                _lanes(doubles[i], doubles[k], lanes[pair, lane : lane + _WIDTH])
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
