"""The `Balance` of deltas as keys, counted and kept by brackets, most without being known."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels.numba.balances import balance
from mergebuild.kernels.numba.brackets import bracket, keep
from mergebuild.kernels.numba.enclosures import add_sizes, constants, enclose, gather
from mergebuild.kernels.numba.jit import jit
from mergebuild.kernels.numba.numbers import TILE
from mergebuild.kernels.numba.values import load_deltas, order

_ZERO: Final = np.float32(0.0)
_ZERO_KEY: Final = np.uint32(0x80000000)


@jit
def bracket_balances(
    raw: Any,
    codes: Any,
    which: Any,
    extremes: Any,
    ends: Any,
    bounds: Any,
    limits: Any,
    rooms: Any,
    count: int,
    floats: Any,
    doubles: Any,
    words: Any,
    flags: Any,
    counts: Any,
    between: Any,
) -> None:
    """`bracket` of the `Balance` of some deltas; their brackets stand one after the other, those of
    the i-th up to `ends[i]`. `limits` are the values of `bounds`, float32 (brackets, 2).

    Only what is not surely outside of all brackets, nor +0 at their ends, is computed as defined.
    Scratch: float32 (6 + 2·deltas, TILE), float64 (2, TILE), uint32 (3, TILE), and as `bracket`.
    """
    base, total, size, about, off = floats[0], floats[1], floats[2], floats[3], floats[4]
    values, models = floats[5], (len(floats) - 6) // 2
    deltas, some = floats[6 : 6 + models], floats[6 + models :]
    keys, numbers, places = words[0], words[1], words[2]
    for j in range(TILE):
        numbers[j] = j
    for start in range(0, count, TILE):
        part = min(TILE, count - start)
        load_deltas(raw, codes, start, part, base, deltas)
        add_sizes(deltas, part, total, size)
        first = 0
        for i in range(len(which)):
            low, high = extremes[i, 0], extremes[i, 1]
            fixed = constants(models, low, high)
            enclose(deltas[which[i]], total, size, fixed, part, about, off)
            flags[:part] = 0
            for b in range(first, ends[i]):
                _decide(about, off, part, bounds[b], limits[b], flags, counts[b])
            found = keep(numbers, part, flags, 0, places)
            if found > 0:
                for b in range(first, ends[i]):
                    _take_back(about, off, places, found, bounds[b], limits[b], counts[b])
                gather(deltas, places, found, some)
                balance(some, which[i], low, high, found, doubles)
                wide = doubles[0]
                for t in range(found):
                    values[t] = np.float32(wide[t])
                order(values, found, keys)
                for b in range(first, ends[i]):
                    bracket(keys, found, bounds[b], flags, counts[b], rooms[b], between[b])
            first = ends[i]


@jit
def _decide(
    about: Any, off: Any, count: int, bounds: Any, limits: Any, flags: Any, counts: Any
) -> None:
    """Count what is surely below a bracket, or +0 at an end of it; flag what is not sure."""
    low, high = limits[0], limits[1]
    zero_low, zero_high = bounds[0] == _ZERO_KEY, bounds[1] == _ZERO_KEY
    below = zeros = np.uint32(0)
    if zero_low or zero_high:
        for j in range(count):
            under, over = about[j] + off[j] < low, about[j] - off[j] > high
            zero = (about[j] == _ZERO) & (off[j] == _ZERO)
            below = np.uint32(below + np.uint32(under))
            zeros = np.uint32(zeros + np.uint32(zero))
            flags[j] |= np.uint8(not (under | over | zero))
    else:
        for j in range(count):
            under, over = about[j] + off[j] < low, about[j] - off[j] > high
            below = np.uint32(below + np.uint32(under))
            flags[j] |= np.uint8(not (under | over))
    counts[0] += below
    counts[1] += zeros if zero_low else np.uint32(0)
    counts[2] += zeros if zero_high else np.uint32(0)


@jit
def _take_back(
    about: Any, off: Any, places: Any, found: int, bounds: Any, limits: Any, counts: Any
) -> None:
    """Uncount what another bracket of the same value has flagged."""
    zero_low, zero_high = bounds[0] == _ZERO_KEY, bounds[1] == _ZERO_KEY
    for t in range(found):
        j = places[t]
        counts[0] -= np.int64(about[j] + off[j] < limits[0])
        zero = np.int64((about[j] == _ZERO) & (off[j] == _ZERO))
        counts[1] -= zero if zero_low else 0
        counts[2] -= zero if zero_high else 0
