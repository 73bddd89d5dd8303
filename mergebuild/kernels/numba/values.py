"""The values of `places`, a tile at a time, and the keys that order them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels.numba.balances import balance
from mergebuild.kernels.numba.jit import jit
from mergebuild.kernels.numba.numbers import load, load_vector

SPREAD, IMPORTANCE, BALANCE = 0, 1, 2

_STRIP: Final = 512
_SIGN: Final = np.uint32(0x80000000)
_SIZE: Final = np.uint32(0x7FFFFFFF)
_INFINITE: Final = np.uint32(0x7F800000)
_NAN_KEY: Final = np.uint32(0xFFC00000)


@jit
def load_deltas(raw: Any, codes: Any, start: int, count: int, base: Any, deltas: Any) -> None:
    """The base, and all deltas."""
    load(raw[0], codes[0], start, count, base)
    for i in range(len(deltas)):
        load_vector(raw, codes, i, True, start, count, base, deltas[i])


@jit
def spread(deltas: Any, count: int, doubles: Any, into: Any) -> None:
    """`Spread`, some places at a time that stay in the innermost cache. Scratch: float64 (2, TILE).

    To divide by a power of two is to multiply by its inverse, which is faster.
    """
    models = np.float64(len(deltas))
    inverse = np.float64(1.0) / models
    exact = len(deltas) & (len(deltas) - 1) == 0
    for start in range(0, count, _STRIP):
        part = min(_STRIP, count - start)
        mean, variance = doubles[0, :part], doubles[1, :part]
        for i in range(len(deltas)):
            delta = deltas[i, start : start + part]
            for j in range(part):
                wide = np.float64(delta[j])
                mean[j] = wide if i == 0 else mean[j] + wide
        _divide(mean, models, inverse, exact)
        for i in range(len(deltas)):
            delta = deltas[i, start : start + part]
            for j in range(part):
                off = np.float64(delta[j]) - mean[j]
                variance[j] = off * off if i == 0 else variance[j] + off * off
        _divide(variance, models, inverse, exact)
        found = into[start : start + part]
        for j in range(part):
            found[j] = np.float32(variance[j])


@jit
def _divide(values: Any, by: Any, inverse: Any, exact: bool) -> None:
    if exact:
        for j in range(len(values)):
            values[j] = values[j] * inverse
    else:
        for j in range(len(values)):
            values[j] = values[j] / by


@jit
def importance(delta: Any, kappa: Any, length: int, start: int, count: int, into: Any) -> None:
    """`Importance` from element `start` of the rows that `kappa`, float32, is of."""
    done: Any = 0
    while done < count:
        row = (start + done) // length
        end = min(count, (row + 1) * length - start)
        factor = kappa[row]
        for j in range(done, end):
            into[j] = abs(delta[j]) * factor
        done = end


@jit
def derive(
    kind: int,
    raw: Any,
    codes: Any,
    numbers: Any,
    place: int,
    start: int,
    count: int,
    floats: Any,
    doubles: Any,
    into: Any,
) -> None:
    """Values of `count` places from `start` on, with the deltas left in `floats[1:]`.

    `numbers`, float32, are κ of each row and `place` a row's length, or low and high of the delta
    at this `place`. Scratch: float32 (1 + deltas, TILE), float64 (2, TILE).
    """
    deltas = floats[1:]
    load_deltas(raw, codes, start, count, floats[0], deltas)
    if kind == SPREAD:
        spread(deltas, count, doubles, into)
    elif kind == IMPORTANCE:
        importance(deltas[0], numbers, place, start, count, into)
    else:
        balance(deltas, place, numbers[0], numbers[1], count, doubles)
        wide = doubles[0]
        for j in range(count):
            into[j] = np.float32(wide[j])


@jit
def order(values: Any, count: int, keys: Any) -> None:
    """The keys of float32 values, uint32; one for all that are NaN, above all others."""
    words = values.view(np.uint32)
    for j in range(count):
        word = words[j]
        turned = np.uint32(
            word ^ np.uint32(np.uint32(np.uint32(0) - (word >> np.uint32(31))) | _SIGN)
        )
        keys[j] = _NAN_KEY if np.uint32(word & _SIZE) > _INFINITE else turned
