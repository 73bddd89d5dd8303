"""About what a `Balance` is, in float32, and how far it may be off: most decisions need no more.

With u = 2⁻²⁴, K deltas, S = Σ d_j and A = Σ |d_j|, of a place where all numbers are finite,
|d·S| ≤ NEAR and q = K·n² ≤ R, R = `reach(K)`: the sum, of numbers that are float32, is off by K·u·A
at most; n by 3u and q by 8u of itself, so e^q by 8u·R, and by 4u for the terms that its series
leaves out, 2u for the reduced argument and 4u for the sum; tanh by 4u for its series and 3u for
its sum and argument; their product by u. As |tanh(d·S)| ≤ |d|·A all together is at most
(8R + K + 19)·u·e^q·|d|·A, but for underflow. `enclosed` takes (16R + 4K + 96)·u·e^q·|d|·A and
10⁻³⁰·e^q: that leaves room for its own roundings and for those of the float64 values, which are
2⁻⁵⁰ off. Where anything is not as said it takes infinity. A product and a sum may become one
rounding here (`jit_near`), so the numbers differ between processors; decisions do not.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels.numba.jit import jit, jit_near

NEAR: Final = np.float32(0.125)
UNIT: Final = np.float32(2.0**-24)

_FARTHEST: Final = 40.0
_WIDEST: Final = 2.0**100
_TINY: Final = np.float32(1e-30)
_INFINITE: Final = np.float32(np.inf)
_ZERO: Final = np.float32(0.0)
_ONE: Final = np.float32(1.0)

_LOG2E: Final = np.float32(1.4426950408889634)
_LN2_HIGH: Final = np.float32(float.fromhex("0x1.62e4p-1"))
"""The first 15 bits of ln 2: its product with an integer of 6 bits is exact."""
_LN2_LOW: Final = np.float32(float.fromhex("0x1.7f7d1cf79abcap-20"))
_ROUND: Final = np.float32(1.5 * 2.0**23)
_ROUND_BITS: Final = np.uint32(0x4B400000)
_BIAS: Final = np.uint32(127)
_MANTISSA: Final = np.uint32(23)
_E2, _E3, _E4 = np.float32(1 / 2), np.float32(1 / 6), np.float32(1 / 24)
_E5, _E6 = np.float32(1 / 120), np.float32(1 / 720)
_T3, _T5 = np.float32(-1 / 3), np.float32(2 / 15)


@jit
def reach(deltas: int) -> Any:
    """How large q may be. Of the largest |d| it is K."""
    return np.float32(min(2.0 * deltas, _FARTHEST))


@jit
def add_sizes(deltas: Any, count: int, total: Any, size: Any) -> None:
    """S and A."""
    first, second = deltas[0], deltas[min(1, len(deltas) - 1)]
    if len(deltas) == 1:
        for j in range(count):
            total[j], size[j] = first[j], abs(first[j])
    else:
        for j in range(count):
            total[j], size[j] = first[j] + second[j], abs(first[j]) + abs(second[j])
    for i in range(2, len(deltas)):
        delta = deltas[i]
        for j in range(count):
            total[j] += delta[j]
            size[j] += abs(delta[j])


@jit_near
def _exp(x: Any) -> Any:
    """Of 0 ≤ x ≤ 40."""
    shifted = np.float32(x * _LOG2E + _ROUND)
    k = np.float32(shifted - _ROUND)
    r = np.float32((x - k * _LN2_HIGH) - k * _LN2_LOW)
    r2 = r * r
    p = (_E2 + _E3 * r) + ((_E4 + _E5 * r) + _E6 * r2) * r2
    exponent = np.uint32(np.uint32(shifted.view(np.uint32) - _ROUND_BITS) + _BIAS)
    power = np.uint32(exponent << _MANTISSA).view(np.float32)
    return ((r2 * p + r) + _ONE) * power


@jit
def constants(models: int, low: Any, high: Any) -> Any:
    """What `enclosed` needs of one delta out of `models` besides it: float32 numbers."""
    width = np.float64(high) - np.float64(low)
    scale = np.float32(0.0 if width == 0.0 else 1.0 / width)
    if not (width == 0.0 or 1.0 / _WIDEST <= abs(width) <= _WIDEST):
        scale = np.float32(np.nan)
    most = reach(models)
    share = np.float32(16.0 * most + (4.0 * models + 96.0)) * UNIT
    return np.float32(low), scale, np.float32(models), most, share


@jit_near
def enclosed(d: Any, total: Any, size: Any, fixed: Any) -> Any:
    """A float32 near a `Balance`, and how far it is off at most."""
    low, scale, models, most, share = fixed
    own = abs(d)
    n = (own - low) * scale
    q = (n * n) * models
    z = total * d
    w = z * z
    grown = _exp(q)
    turned = (z * w) * (_T3 + _T5 * w) + z
    off = grown * ((size * own) * share + _TINY)
    known = (abs(z) <= NEAR) & (q <= most)
    off = _ZERO if own == _ZERO else off  # then it is +0
    return grown * turned, off if known else _INFINITE


@jit_near
def enclose(
    delta: Any, total: Any, size: Any, fixed: Any, count: int, about: Any, off: Any
) -> None:
    """The same of a tile."""
    for j in range(count):
        about[j], off[j] = enclosed(delta[j], total[j], size[j], fixed)


@jit
def gather(values: Any, places: Any, count: int, into: Any) -> None:
    """Some elements of each row."""
    for i in range(len(values)):
        row, some = values[i], into[i]
        for t in range(count):
            some[t] = row[places[t]]
