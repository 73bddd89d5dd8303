"""κ of rows: how far the softmax of one is from that of another, in float64."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels.numba.functions import exp, exp_is_near, exp_near, log_quotient
from mergebuild.kernels.numba.jit import jit
from mergebuild.kernels.numba.numbers import TILE, load
from mergebuild.kernels.numba.sums import fold
from mergebuild.kernels.places import FLOOR

_FLOOR: Final = np.float64(FLOOR)
_SIZE: Final = np.int32(0x7FFFFFFF)


@jit
def divergences(
    raw: Any, codes: Any, length: int, floats: Any, rows: Any, scratch: Any, kappa: Any
) -> None:
    """`Divergences` of as many rows as there is room for in `kappa`.

    Scratch: float32 (1, TILE), float64 (2, length) and (length).
    """
    values, b, x = floats[0], rows[0], rows[1]
    for row in range(len(kappa)):
        start = row * length
        b_scale = _grow(raw[0], codes[0], start, values, b, scratch)
        x_scale = _grow(raw[1], codes[1], start, values, x, scratch)
        for j in range(length):
            p = x[j] * x_scale + _FLOOR
            q = b[j] * b_scale + _FLOOR
            x[j] = log_quotient(p, q) * p
        fold(x, length, 1)
        kappa[row] = x[0]


@jit
def _grow(raw: Any, code: int, start: int, values: Any, into: Any, scratch: Any) -> Any:
    """exp(v - shift) of one row; 1 / Σ of it."""
    length = len(into)
    far = np.int64(0)
    for done in range(0, length, TILE):
        part = min(TILE, length - done)
        load(raw, code, start + done, part, values)
        grown = into[done : done + part]
        for j in range(part):
            wide = np.float64(values[j])
            far |= np.int64(not exp_is_near(wide))
            grown[j] = exp_near(wide)
        if far != 0:
            _grow_below(raw, code, start, values, into)
            break
    half = 1
    while 2 * half < length:
        half *= 2
    low, high = into[:half], into[half:]
    for j in range(len(high)):  # the first step of a fold, which leaves what it adds
        scratch[j] = low[j] + high[j]
    for j in range(len(high), len(low)):
        scratch[j] = low[j]
    fold(scratch, len(low), 1)
    return 1.0 / scratch[0]


@jit
def _grow_below(raw: Any, code: int, start: int, values: Any, into: Any) -> None:
    """exp(v - max v) of one row."""
    length = len(into)
    top = np.float64(_largest(raw, code, start, length, values))
    for done in range(0, length, TILE):
        part = min(TILE, length - done)
        load(raw, code, start + done, part, values)
        grown = into[done : done + part]
        for j in range(part):
            grown[j] = exp(np.float64(values[j]) - top)


@jit
def _largest(raw: Any, code: int, start: int, length: int, values: Any) -> Any:
    """Of a row without NaN the largest element; where there is NaN any."""
    words = values.view(np.int32)
    largest = np.int32(-0x80000000)
    for done in range(0, length, TILE):
        part = min(TILE, length - done)
        load(raw, code, start + done, part, values)
        for j in range(part):
            word = words[j]
            key = np.int32(word ^ (np.int32(word >> np.int32(31)) & _SIZE))  # orders as values do
            largest = max(largest, key)
    return np.int32(largest ^ (np.int32(largest >> np.int32(31)) & _SIZE)).view(np.float32)
