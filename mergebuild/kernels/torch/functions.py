"""exp, tanh and ln of a quotient as `kernels.functions` defines them, over tensors of float64.

Every step is one operation of torch and hence one rounding, on any device: none has a factor or an
addend of its own that could be contracted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mergebuild.kernels.functions import (
    EXP,
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


def exp(x: Tensor) -> Tensor:
    r, k = _reduced(x.clamp(LEAST, MOST))
    half = k >> 1
    return _grown(r).add_(1.0).mul_(_power(half)).mul_(_power(k - half))


def tanh(z: Tensor) -> Tensor:
    size = z.abs()
    r, k = _reduced((size * -2.0).clamp_(min=TANH_LEAST))
    power = _power(k)
    u = _grown(r).mul_(power).add_(power - 1.0)
    far = u.neg().div_(u + 2.0)
    far = torch.where(z < 0.0, -far, far)
    w = z * z
    near = _fourth(TANH, w, w * w).mul_(z * w).add_(z)
    return torch.where(size < TANH_NEAR, near, far)


def log_quotient(p: Tensor, q: Tensor) -> Tensor:
    """ln(p / q)."""
    k = ((p.view(torch.int64) - q.view(torch.int64)) + (1 << 51)) >> 52
    m = p * _power(-k)
    s = (m - q).div_(m + q)
    w = s * s
    w2 = w * w
    rest = _fourth(LOG[4:], w, w2).mul_(w2 * w2).add_(_fourth(LOG, w, w2)).mul_(s * w).add_(s + s)
    exponent = k.double()
    return (exponent * LN2_LOW).add_(rest).add_(exponent * LN2_HIGH)


def _reduced(x: Tensor) -> tuple[Tensor, Tensor]:
    """r and k."""
    shifted = (x * LOG2E).add_(ROUND)
    rounded = shifted - ROUND
    r = (x - rounded * LN2_HIGH).sub_(rounded * LN2_LOW)
    return r, shifted.view(torch.int64) - ROUND_BITS


def _power(k: Tensor) -> Tensor:
    """2^k."""
    return ((k + 1023) << 52).view(torch.float64)


def _grown(r: Tensor) -> Tensor:
    """e^r - 1."""
    r2 = r * r
    r4 = r2 * r2
    p = _fourth(EXP[4:], r, r2).mul_(r4).add_(_fourth(EXP, r, r2))
    p.add_((r * EXP[9]).add_(EXP[8]).mul_(r4 * r4))
    return p.mul_(r2).add_(r)


def _fourth(c: Sequence[float], x: Tensor, x2: Tensor) -> Tensor:
    """(c0 + c1·x) + (c2 + c3·x)·x²."""
    return (x * c[3]).add_(c[2]).mul_(x2).add_((x * c[1]).add_(c[0]))
