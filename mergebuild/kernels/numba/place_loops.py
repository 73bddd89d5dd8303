"""Maps that weigh the inputs against each other at every place, as `places` describes them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels.numba.jit import jit
from mergebuild.kernels.numba.numbers import TILE, load, load_vector, store
from mergebuild.kernels.numba.values import importance, load_deltas, spread

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
    doubles: Any,
    out: Any,
    code: int,
) -> int:
    """`Votes`; counts overflows. Scratch: float32 (4 + deltas, TILE), float64 (2, TILE)."""
    base, total, signs, divisors = floats[0], floats[1], floats[2], floats[3]
    deltas = floats[4 : 4 + len(weights)]
    lost = 0
    for start in range(0, count, TILE):
        part = min(TILE, count - start)
        load_deltas(raw, codes, start, part, base, deltas)
        if selects:
            spread(deltas, part, doubles, signs)
            for j in range(part):
                signs[j] = _ONE if signs[j] >= least else _ZERO
            for i in range(len(weights)):
                delta = deltas[i]
                for j in range(part):
                    delta[j] = delta[j] * signs[j]
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
def important(
    raw: Any,
    codes: Any,
    kappa: Any,
    length: int,
    threshold: Any,
    count: int,
    floats: Any,
    out: Any,
    code: int,
) -> int:
    """`Important`; counts overflows. Scratch: float32 (3, TILE)."""
    base, delta, values = floats[0], floats[1], floats[2]
    lost = 0
    for start in range(0, count, TILE):
        part = min(TILE, count - start)
        load_deltas(raw, codes, start, part, base, floats[1:2])
        importance(delta, kappa, length, start, part, values)
        for j in range(part):
            kept = _ONE if values[j] >= threshold else _ZERO
            values[j] = delta[j] * kept + base[j]
        lost += store(values, part, out, code, start)
    return lost


@jit
def consensus(
    raw: Any,
    codes: Any,
    bounds: Any,
    least: int,
    scale: Any,
    count: int,
    floats: Any,
    out: Any,
    code: int,
) -> int:
    """`Consensus`; counts overflows. Scratch: float32 (3 + deltas, TILE)."""
    base, total, many, deltas = floats[0], floats[1], floats[2], floats[3:]
    enough = np.float32(least)
    lost = 0
    for start in range(0, count, TILE):
        part = min(TILE, count - start)
        load_deltas(raw, codes, start, part, base, deltas)
        for i in range(len(bounds)):
            delta = deltas[i]
            for j in range(part):
                total[j] = delta[j] if i == 0 else total[j] + delta[j]
        for j in range(part):
            many[j] = _ZERO
        for i in range(len(bounds)):
            delta, bound = deltas[i], bounds[i]
            for j in range(part):
                others = abs(total[j] - delta[j]) * bound
                many[j] = many[j] + (_ONE if abs(delta[j]) > others else _ZERO)
        for j in range(part):
            kept = total[j] * (_ONE if many[j] >= enough else _ZERO)
            total[j] = kept * scale + base[j]
        lost += store(total, part, out, code, start)
    return lost
