"""The map that weighs deltas by their `Balance`, in float32 where the output cannot show it.

Of one place let β_i be as defined, b_i what is made of an enclosure and e_i ≥ |b_i - β_i|,
W = Σ b_i, ρ = Σ b_i·d_i / W and A = Σ |d_i|. Then |ρ - Σ β_i·d_i / Σ β_i| ≤ Σ e_i·(|d_i| + A) / W
≤ 2A·Σ e_i / W, and all roundings on the way, K + 4 of each sum and 4 later, are below (2K + 8)·u·A.
`_nearly` takes 2.5 for 2 and (4K + 32)·u·A, for its own roundings. The output is one of a few
numbers; if both ends of what is possible become the same one, it is that.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels.numba.balances import balance, scale_to_one
from mergebuild.kernels.numba.brackets import keep
from mergebuild.kernels.numba.enclosures import UNIT, add_sizes, constants, enclosed, gather
from mergebuild.kernels.numba.jit import jit, jit_near
from mergebuild.kernels.numba.numbers import BFLOAT16, FLOAT16, TILE, store
from mergebuild.kernels.numba.values import load_deltas

_ZERO: Final = np.float32(0.0)
_ONE: Final = np.float32(1.0)
_INFINITE: Final = np.float32(np.inf)
_SMALLEST: Final = np.float32(2.0**-60)
_LARGEST: Final = np.float32(2.0**60)
_LIGHTEST: Final = np.float32(2.0**-20)

# Where tiles begin in one array: at distances that LLVM knows, so that it need not ask whether one
# overlaps another, which it would do for a few at most and else not compute several at once.
_TOTAL, _SIZE, _WEIGHTS, _MERGED, _ERRORS = 0, TILE, 2 * TILE, 3 * TILE, 4 * TILE
_BELOW, _ABOVE = 5 * TILE, 6 * TILE

_SHARE: Final = np.float32(8.0) * UNIT
_APART: Final = np.float32(2.5)
_SLACK: Final = np.float32(1.01)


@jit
def balanced(
    raw: Any,
    codes: Any,
    which: Any,
    extremes: Any,
    bounds: Any,
    scale: Any,
    count: int,
    floats: Any,
    tiles: Any,
    doubles: Any,
    words: Any,
    flags: Any,
    shorts: Any,
    out: Any,
    code: int,
) -> int:
    """`Balanced`; counts overflows.

    Scratch: float32 (2 + 2·deltas, TILE) and (7·TILE), float64 (4, TILE), uint32 (2, TILE),
    uint8 (TILE), uint16 (TILE).
    """
    base, models = floats[0], (len(floats) - 2) // 2
    deltas, some = floats[2 : 2 + models], floats[2 + models :]
    below, above = tiles[_BELOW:_ABOVE], tiles[_ABOVE:]
    numbers, places = words[0], words[1]
    for j in range(TILE):
        numbers[j] = j
    near = _fits(bounds, scale, code)
    lost = 0
    for start in range(0, count, TILE):
        part = min(TILE, count - start)
        load_deltas(raw, codes, start, part, base, deltas)
        if near:
            _nearly(deltas, which, extremes, bounds, scale, base, part, tiles)
            beyond = store(above, part, shorts.view(np.uint8), code, 0)
            beyond += store(below, part, out, code, start)
            if beyond == 0:
                made = out.view(np.uint16)[start : start + part]
                for j in range(part):
                    flags[j] = np.uint8(made[j] != shorts[j])
                found = keep(numbers, part, flags, 0, places)
                if found > 0:
                    gather(deltas, places, found, some)
                    gather(floats[0:1], places, found, floats[1:2])
                    _exactly(some, which, extremes, bounds, scale, floats[1], found, doubles)
                    lost += store(floats[1], found, shorts.view(np.uint8), code, 0)
                    for t in range(found):
                        made[places[t]] = shorts[t]
                continue
        _exactly(deltas, which, extremes, bounds, scale, base, part, doubles)
        lost += store(base, part, out, code, start)
    return lost


@jit
def _exactly(
    deltas: Any,
    which: Any,
    extremes: Any,
    bounds: Any,
    scale: Any,
    base: Any,
    count: int,
    doubles: Any,
) -> None:
    """The result in place of the base, as it is defined."""
    beta, weights, merged = doubles[0], doubles[2], doubles[3]
    for j in range(count):
        weights[j] = 0.0
        merged[j] = 0.0
    for i in range(len(which)):
        balance(deltas, which[i], extremes[i, 0], extremes[i, 1], count, doubles)
        scale_to_one(beta, bounds[i, 0], bounds[i, 1], count)
        delta = deltas[which[i]]
        for j in range(count):
            weights[j] = weights[j] + beta[j]
            merged[j] = merged[j] + beta[j] * np.float64(delta[j])
    for j in range(count):
        weight = weights[j] + (1.0 if weights[j] == 0.0 else 0.0)
        base[j] = np.float32((merged[j] / weight) * scale) + base[j]


@jit
def _fits(bounds: Any, scale: Any, code: int) -> bool:
    """Whether float32 has room for what comes on the way, and the output less than it."""
    if code not in (BFLOAT16, FLOAT16) or not 2.0**-20 <= abs(scale) <= 2.0**20:
        return False
    for i in range(len(bounds)):
        if not 2.0**-100 <= np.float64(bounds[i, 1]) - np.float64(bounds[i, 0]) <= 2.0**100:
            return False
    return True


@jit
def _nearly(
    deltas: Any,
    which: Any,
    extremes: Any,
    bounds: Any,
    scale: Any,
    base: Any,
    count: int,
    tiles: Any,
) -> None:
    """Two float32 numbers between which the result lies, before it is rounded to the output."""
    add_sizes(deltas, count, tiles[_TOTAL:_SIZE], tiles[_SIZE:_WEIGHTS])
    for i in range(len(which)):
        fixed = constants(len(deltas), extremes[i, 0], extremes[i, 1])
        _weigh(deltas[which[i]], fixed, bounds[i, 0], bounds[i, 1], i == 0, count, tiles)
    _add(len(which), scale, base, count, tiles)


@jit_near
def _weigh(
    delta: Any, fixed: Any, low: Any, high: Any, first: bool, count: int, tiles: Any
) -> None:
    """Add b_i, b_i·d_i and e_i to their sums."""
    inverse = np.float32(1.0 / (np.float64(high) - np.float64(low)))
    loose = inverse * _SLACK
    for j in range(count):
        d = delta[j]
        about, off = enclosed(d, tiles[_TOTAL + j], tiles[_SIZE + j], fixed)
        share = (about - low) * inverse
        error = abs(share) * _SHARE + off * loose
        none = about + off < low
        error = _ZERO if none else error
        share = _ZERO if none | (share < _ZERO) else share
        share = _ONE if share > _ONE else share
        tiles[_WEIGHTS + j] = share if first else tiles[_WEIGHTS + j] + share
        tiles[_MERGED + j] = share * d if first else tiles[_MERGED + j] + share * d
        tiles[_ERRORS + j] = error if first else tiles[_ERRORS + j] + error


@jit
def _add(models: int, scale: Any, base: Any, count: int, tiles: Any) -> None:
    """Where no β is above 0, or no delta is other than 0, nothing is added but 0."""
    factor, nothing = np.float32(scale), np.float32(0.0 * scale)
    rounding = np.float32(4.0 * models + 32.0) * UNIT
    loose = np.float32(abs(scale))
    for j in range(count):
        weight, apart, errors = tiles[_WEIGHTS + j], tiles[_SIZE + j], tiles[_ERRORS + j]
        inverse = _ONE / weight
        moved = (tiles[_MERGED + j] * inverse) * factor
        off = (_APART * (errors * inverse) + rounding) * (apart * loose)
        known = (weight >= _LIGHTEST) & (apart >= _SMALLEST) & (apart <= _LARGEST)
        off = off if known else _INFINITE
        moved = moved if known else _ZERO
        idle = (apart == _ZERO) | ((weight == _ZERO) & (errors == _ZERO))
        off = _ZERO if idle else off
        moved = nothing if idle else moved
        tiles[_BELOW + j] = (moved - off) + base[j]
        tiles[_ABOVE + j] = (moved + off) + base[j]
