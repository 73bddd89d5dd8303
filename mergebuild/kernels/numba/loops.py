"""The maps: float32 in tiles, each step one rounding, and one more to the output's dtype."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels.numba.jit import jit
from mergebuild.kernels.numba.masks import ALL, AT_LEAST, BAND, GIVEN, fill_mask
from mergebuild.kernels.numba.numbers import BFLOAT16, TILE, load, load_vector, store
from mergebuild.kernels.numba.weighing import (
    BY_ELECTED,
    agree,
    weigh,
    weigh_band,
    weigh_kept,
    weigh_least,
)

UNDIVIDED, BY_NUMBER = 0, 1

_ONE: Final = np.float32(1.0)
_ZERO: Final = np.float32(0.0)


@jit
def _accumulate(values: Any, coefficient: Any, first: bool, count: int, total: Any) -> None:
    if first:
        for j in range(count):
            total[j] = values[j] * coefficient
    else:
        for j in range(count):
            total[j] = total[j] + values[j] * coefficient


@jit
def _accumulate_short(
    raw: Any, start: int, coefficient: Any, first: bool, count: int, total: Any
) -> None:
    """The same of bfloat16, decoded on the way."""
    shorts = raw.view(np.uint16)[start : start + count]
    for j in range(count):
        value = np.uint32(np.uint32(shorts[j]) << np.uint32(16)).view(np.float32) * coefficient
        total[j] = value if first else total[j] + value


@jit
def _accumulate_each(values: Any, coefficients: Any, first: bool, count: int, total: Any) -> None:
    if first:
        for j in range(count):
            total[j] = values[j] * coefficients[j]
    else:
        for j in range(count):
            total[j] = total[j] + values[j] * coefficients[j]


@jit
def _add(values: Any, count: int, total: Any) -> None:
    for j in range(count):
        total[j] = total[j] + values[j]


@jit
def combine_rows(
    raw: Any,
    codes: Any,
    deltas: bool,
    coefficients: Any,
    length: int,
    count: int,
    floats: Any,
    output: Any,
    code: int,
) -> int:
    """Σ c_i·v_i with the coefficients (rows, vectors) of each row; counts overflows."""
    base, values, total = floats[0], floats[1], floats[2]
    lost = 0
    for start in range(0, count, length):
        row = start // length
        for done in range(0, length, TILE):
            part = min(TILE, length - done)
            if deltas:
                load(raw[0], codes[0], start + done, part, base)
            for i in range(coefficients.shape[1]):
                coefficient = coefficients[row, i]
                if codes[i] == BFLOAT16 and not deltas:
                    _accumulate_short(raw[i], start + done, coefficient, i == 0, part, total)
                else:
                    load_vector(raw, codes, i, deltas, start + done, part, base, values)
                    _accumulate(values, coefficient, i == 0, part, total)
            if deltas:
                _add(base, part, total)
            lost += store(total, part, output, code, start + done)
    return lost


@jit
def combine_columns(
    raw: Any,
    codes: Any,
    deltas: bool,
    coefficients: Any,
    count: int,
    floats: Any,
    output: Any,
    code: int,
) -> int:
    """Σ c_i·v_i with the coefficients (vectors, columns) of each column; counts overflows."""
    base, values, total = floats[0], floats[1], floats[2]
    length = coefficients.shape[1]
    lost = 0
    for start in range(0, count, length):
        for done in range(0, min(length, count - start), TILE):
            part = min(TILE, length - done, count - start - done)
            if deltas:
                load(raw[0], codes[0], start + done, part, base)
            for i in range(len(coefficients)):
                load_vector(raw, codes, i, deltas, start + done, part, base, values)
                _accumulate_each(values, coefficients[i, done : done + part], i == 0, part, total)
            if deltas:
                _add(base, part, total)
            lost += store(total, part, output, code, start + done)
    return lost


@jit
def sum_task_vectors(
    raw: Any,
    codes: Any,
    kinds: Any,
    bounds: Any,
    streams: Any,
    limits: Any,
    given: Any,
    factors: Any,
    weights: Any,
    elect: bool,
    division: int,
    divisor: Any,
    scale: Any,
    element: int,
    count: int,
    floats: Any,
    output: Any,
    code: int,
) -> int:
    """`TaskVectors`; counts overflows. `element` is the tensor's at the start of the buffers.

    Scratch: float32 (5 + deltas, TILE).
    """
    base, kept, votes, total, divisors = floats[0], floats[1], floats[2], floats[3], floats[4]
    lost = 0
    for start in range(0, count, TILE):
        part = min(TILE, count - start)
        load(raw[0], codes[0], start, part, base)
        for i in range(len(kinds)):
            delta = floats[5 + i]
            load_vector(raw, codes, i, True, start, part, base, delta)
            if kinds[i] == ALL:
                weigh(delta, factors[i], weights[i], i == 0, part, votes)
            elif kinds[i] == AT_LEAST:
                weigh_least(delta, bounds[i], factors[i], weights[i], i == 0, part, votes)
            elif kinds[i] == BAND:
                weigh_band(delta, bounds[i], factors[i], weights[i], i == 0, part, votes)
            elif kinds[i] == GIVEN:
                mask = given[i, start : start + part]
                weigh_kept(delta, mask, factors[i], weights[i], i == 0, part, votes)
            else:
                fill_mask(
                    kinds[i], bounds[i], streams[i], limits[i], element + start, delta, part, kept
                )
                weigh_kept(delta, kept, factors[i], weights[i], i == 0, part, votes)
        summed = votes
        if elect:
            summed = total
            for i in range(len(kinds)):
                delta = floats[5 + i]
                agree(delta, votes, weights[i], i == 0, division, part, total, divisors)
        _finish(summed, base, division, divisors, divisor, scale, part)
        lost += store(summed, part, output, code, start)
    return lost


@jit
def _finish(
    total: Any, base: Any, division: int, divisors: Any, divisor: Any, scale: Any, count: int
) -> None:
    if division == BY_ELECTED:
        for j in range(count):
            by = divisors[j] + (_ONE if divisors[j] == _ZERO else _ZERO)
            total[j] = (total[j] / by) * scale + base[j]
    elif division == BY_NUMBER:
        for j in range(count):
            total[j] = (total[j] / divisor) * scale + base[j]
    else:
        for j in range(count):
            total[j] = total[j] * scale + base[j]
