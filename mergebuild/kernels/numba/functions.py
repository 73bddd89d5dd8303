"""exp, tanh and ln of a quotient as `kernels.functions` defines them, one number at a time.

LLVM takes them into the loops that call them and computes several numbers at once. What is "near"
has fewer steps and, where its condition holds, the same bits.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels.functions import (
    EXP,
    EXP_NEAR,
    LEAST,
    LN2_HIGH,
    LN2_LOW,
    LOG,
    LOG2E,
    MOST,
    ROUND,
    ROUND_BITS,
    TANH,
    TANH_LEAST,
    TANH_NEAR,
)
from mergebuild.kernels.numba.jit import jit

_BIAS: Final = np.int64(1023)
_MANTISSA: Final = np.int64(52)
_HALF: Final = np.int64(1 << 51)
_ROUND_BITS: Final = np.int64(ROUND_BITS)


@jit
def _grown(r: Any) -> Any:
    """e^r - 1."""
    r2 = r * r
    r4 = r2 * r2
    low = (EXP[0] + EXP[1] * r) + (EXP[2] + EXP[3] * r) * r2
    high = (EXP[4] + EXP[5] * r) + (EXP[6] + EXP[7] * r) * r2
    return r2 * ((low + high * r4) + (EXP[8] + EXP[9] * r) * (r4 * r4)) + r


@jit
def _power(k: Any) -> Any:
    """2^k."""
    return np.int64((k + _BIAS) << _MANTISSA).view(np.float64)


@jit
def exp_is_near(x: Any) -> Any:
    """NaN is both."""
    return not abs(x) > EXP_NEAR


@jit
def exp_near(x: Any) -> Any:
    return _grown(x) + 1.0


@jit
def exp(x: Any) -> Any:
    x = LEAST if x < LEAST else x
    x = MOST if x > MOST else x
    shifted = np.float64(x * LOG2E + ROUND)
    rounded = shifted - ROUND
    r = (x - rounded * LN2_HIGH) - rounded * LN2_LOW
    k = shifted.view(np.int64) - _ROUND_BITS
    half = k >> np.int64(1)
    return ((_grown(r) + 1.0) * _power(half)) * _power(k - half)


@jit
def tanh_is_near(z: Any) -> Any:
    """NaN is both."""
    return not abs(z) >= TANH_NEAR


@jit
def tanh_near(z: Any) -> Any:
    w = z * z
    return (z * w) * ((TANH[0] + TANH[1] * w) + (TANH[2] + TANH[3] * w) * (w * w)) + z


@jit
def tanh(z: Any) -> Any:
    v = abs(z) * -2.0
    v = TANH_LEAST if v < TANH_LEAST else v
    shifted = np.float64(v * LOG2E + ROUND)
    rounded = shifted - ROUND
    r = (v - rounded * LN2_HIGH) - rounded * LN2_LOW
    power = _power(shifted.view(np.int64) - _ROUND_BITS)
    u = (power - 1.0) + power * _grown(r)
    size = -u / (u + 2.0)
    signed = -size if z < 0.0 else size
    return tanh_near(z) if abs(z) < TANH_NEAR else signed


@jit
def _twice_artanh(s: Any) -> Any:
    w = s * s
    w2 = w * w
    low = (LOG[0] + LOG[1] * w) + (LOG[2] + LOG[3] * w) * w2
    high = (LOG[4] + LOG[5] * w) + (LOG[6] + LOG[7] * w) * w2
    return (s * w) * (low + high * (w2 * w2)) + (s + s)


@jit
def log_quotient(p: Any, q: Any) -> Any:
    apart = np.float64(p).view(np.int64) - np.float64(q).view(np.int64)
    k = np.int64(apart + _HALF) >> _MANTISSA
    m = p * _power(-k)
    exponent = np.float64(k)
    return exponent * LN2_HIGH + (exponent * LN2_LOW + _twice_artanh((m - q) / (m + q)))
