"""How large a delta is within its model and how far it agrees with the others, in float64."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels.numba.functions import (
    exp,
    exp_is_near,
    exp_near,
    tanh,
    tanh_is_near,
    tanh_near,
)
from mergebuild.kernels.numba.jit import jit

_ZERO: Final = np.float32(0.0)


@jit
def balance(deltas: Any, delta: int, low: Any, high: Any, count: int, doubles: Any) -> None:
    """`Balance` in float64, into the first of `doubles`, float64 (2, TILE)."""
    turned, grown, d = doubles[0], doubles[1], deltas[delta]
    for i in range(len(deltas)):
        other = deltas[i]
        for j in range(count):
            wide = np.float64(other[j])
            turned[j] = wide if i == 0 else turned[j] + wide
    models, least = np.float64(len(deltas)), np.float64(low)
    width = np.float64(high) - least
    scale = 1.0 / width
    far_turned = far_grown = np.int64(0)
    for j in range(count):
        wide = np.float64(d[j])
        n = wide * 0.0 if width == 0.0 else (abs(wide) - least) * scale
        square = (n * n) * models
        product = turned[j] * wide
        grown[j], turned[j] = square, product
        far_grown |= np.int64(not exp_is_near(square))
        far_turned |= np.int64(not tanh_is_near(product))
    if far_turned == 0:
        for j in range(count):
            turned[j] = tanh_near(turned[j])
    else:
        for j in range(count):
            turned[j] = tanh(turned[j])
    if far_grown == 0:
        for j in range(count):
            turned[j] = exp_near(grown[j]) * turned[j]
    else:
        for j in range(count):
            turned[j] = exp(grown[j]) * turned[j]


@jit
def scale_to_one(beta: Any, low: Any, high: Any, count: int) -> None:
    """β of `Balanced` in place, from `Balance` in float64 and its bounds, which are float32."""
    least = np.float64(low)
    if high != low:
        scale = 1.0 / (np.float64(high) - least)
        for j in range(count):
            share = (beta[j] - least) * scale
            share = 0.0 if share < 0.0 else share
            beta[j] = 1.0 if share > 1.0 else share
    else:
        for j in range(count):
            there = np.float32(beta[j]) >= high and high > _ZERO
            beta[j] = (1.0 if there else 0.0) + beta[j] * 0.0
