"""Maps that weigh the inputs against each other at every place, as `places` describes them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels.numba.jit import jit
from mergebuild.kernels.numba.numbers import TILE, load, load_vector, store

_ONE: Final = np.float32(1.0)
_ZERO: Final = np.float32(0.0)


@jit
def average(
    raw: Any, codes: Any, weights: Any, divisor: Any, count: int, floats: Any, out: Any, code: int
) -> int:
    """`Average`; counts overflows. Scratch: float32 (2, TILE)."""
    values, total = floats[0], floats[1]
    lost = 0
    for start in range(0, count, TILE):
        part = min(TILE, count - start)
        for i in range(len(weights)):
            load(raw[i], codes[i], start, part, values)
            weight = weights[i]
            for j in range(part):
                value = values[j] * weight
                total[j] = value if i == 0 else total[j] + value
        for j in range(part):
            total[j] = total[j] / divisor
        lost += store(total, part, out, code, start)
    return lost


@jit
def toward(
    raw: Any, codes: Any, step: Any, floor: Any, count: int, floats: Any, out: Any, code: int
) -> int:
    """`Toward`; counts overflows. Scratch: float32 (2, TILE)."""
    base, values = floats[0], floats[1]
    lost = 0
    for start in range(0, count, TILE):
        part = min(TILE, count - start)
        load(raw[0], codes[0], start, part, base)
        load(raw[1], codes[1], start, part, values)
        for j in range(part):
            delta = values[j] - base[j]
            size = abs(delta)
            size = floor if size < floor else size
            omega = step / size
            omega = _ZERO if omega < _ZERO else omega
            omega = _ONE if omega > _ONE else omega
            moved = omega * delta + base[j]
            values[j] = values[j] if omega == _ONE else moved
        lost += store(values, part, out, code, start)
    return lost


@jit
def overlap(
    raw: Any, codes: Any, threshold: Any, own: Any, count: int, floats: Any, out: Any, code: int
) -> int:
    """`Overlap`; counts overflows. Scratch: float32 (5, TILE)."""
    base, values, total, many, factor = floats[0], floats[1], floats[2], floats[3], floats[4]
    lost = 0
    for start in range(0, count, TILE):
        part = min(TILE, count - start)
        load(raw[0], codes[0], start, part, base)
        for i in range(len(own)):
            load_vector(raw, codes, i, True, start, part, base, values)
            mine = own[i]
            for j in range(part):
                beyond = _ONE if abs(values[j]) > threshold else _ZERO
                kept = values[j] * beyond
                total[j] = kept if i == 0 else total[j] + kept
                many[j] = beyond if i == 0 else many[j] + beyond
                share = beyond * mine
                factor[j] = share if i == 0 else factor[j] + share
        for j in range(part):
            scaled = total[j] * (factor[j] if many[j] == _ONE else _ONE)
            divisor = _ONE if many[j] < _ONE else many[j]
            total[j] = scaled / divisor + base[j]
        lost += store(total, part, out, code, start)
    return lost


@jit
def votes(
    raw: Any,
    codes: Any,
    weights: Any,
    floor: Any,
    selects: bool,
    least: Any,
    count: int,
    floats: Any,
    out: Any,
    code: int,
) -> int:
    """`Votes`; counts overflows. Scratch: float32 (4 + deltas, TILE)."""
    base, total, signs, divisors = floats[0], floats[1], floats[2], floats[3]
    deltas = floats[4 : 4 + len(weights)]
    lost = 0
    for start in range(0, count, TILE):
        part = min(TILE, count - start)
        load(raw[0], codes[0], start, part, base)
        for i in range(len(weights)):
            load_vector(raw, codes, i, True, start, part, base, deltas[i])
        if selects:
            _select(deltas, least, part)
        for i in range(len(weights)):
            delta = deltas[i]
            for j in range(part):
                total[j] = delta[j] if i == 0 else total[j] + delta[j]
        for j in range(part):
            signs[j] = _ONE if total[j] >= _ZERO else -_ONE
            divisors[j] = _ZERO
        for i in range(len(weights)):
            delta, weight = deltas[i], weights[i]
            for j in range(part):
                agrees = _ONE if delta[j] * signs[j] > _ZERO else _ZERO
                value = (delta[j] * agrees) * weight
                total[j] = value if i == 0 else total[j] + value
                divisors[j] = divisors[j] + agrees * weight
        for j in range(part):
            divisor = floor if divisors[j] < floor else divisors[j]
            total[j] = total[j] / divisor + base[j]
        lost += store(total, part, out, code, start)
    return lost


@jit
def _select(deltas: Any, least: Any, count: int) -> None:
    """Make 0 what varies less than `least`: `Spread`, in float64 and rounded once."""
    models = np.float64(len(deltas))
    for j in range(count):
        total = np.float64(deltas[0, j])
        for i in range(1, len(deltas)):
            total = total + np.float64(deltas[i, j])
        mean = total / models
        variance = 0.0
        for i in range(len(deltas)):
            off = np.float64(deltas[i, j]) - mean
            variance = variance + off * off
        kept = _ONE if np.float32(variance / models) >= least else _ZERO
        for i in range(len(deltas)):
            deltas[i, j] = deltas[i, j] * kept
