"""Steps of a sum of task vectors over a tile: mask, weigh and add at once, then elect.

What one loop does a tile need not be written and read once more for. Masks multiply, so that 0·inf
and 0·NaN stay visible.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels.numba.jit import jit

BY_ELECTED: Final = 2

_ONE: Final = np.float32(1.0)
_ZERO: Final = np.float32(0.0)


@jit
def weigh(delta: Any, factor: Any, weight: Any, first: bool, count: int, total: Any) -> None:
    """d becomes δ in place, and is added to the total, which the first one is."""
    for j in range(count):
        value = (delta[j] * factor) * weight
        delta[j] = value
        total[j] = value if first else total[j] + value


@jit
def weigh_kept(
    delta: Any, kept: Any, factor: Any, weight: Any, first: bool, count: int, total: Any
) -> None:
    """The same under a mask of zeros and ones."""
    for j in range(count):
        value = ((delta[j] * np.float32(kept[j])) * factor) * weight
        delta[j] = value
        total[j] = value if first else total[j] + value


@jit
def weigh_least(
    delta: Any, bounds: Any, factor: Any, weight: Any, first: bool, count: int, total: Any
) -> None:
    """The same of |d| ≥ the first bound."""
    low = bounds[0]
    for j in range(count):
        kept = _ONE if abs(delta[j]) >= low else _ZERO
        value = ((delta[j] * kept) * factor) * weight
        delta[j] = value
        total[j] = value if first else total[j] + value


@jit
def weigh_band(
    delta: Any, bounds: Any, factor: Any, weight: Any, first: bool, count: int, total: Any
) -> None:
    """The same of |d| from the first bound up to the second."""
    low, high = bounds[0], bounds[1]
    for j in range(count):
        size = abs(delta[j])
        kept = _ONE if (size >= low) & (size <= high) else _ZERO
        value = ((delta[j] * kept) * factor) * weight
        delta[j] = value
        total[j] = value if first else total[j] + value


@jit
def agree(
    delta: Any,
    votes: Any,
    weight: Any,
    first: bool,
    division: int,
    count: int,
    total: Any,
    divisors: Any,
) -> None:
    """Sum δ where it has the sign of the votes, and its weight too if that is divided by."""
    if division == BY_ELECTED:
        for j in range(count):
            sign = _ONE if votes[j] >= _ZERO else -_ONE
            agrees = _ONE if delta[j] * sign > _ZERO else _ZERO
            value = delta[j] * agrees
            total[j] = value if first else total[j] + value
            share = agrees * weight
            divisors[j] = share if first else divisors[j] + share
    else:
        for j in range(count):
            sign = _ONE if votes[j] >= _ZERO else -_ONE
            value = delta[j] * (_ONE if delta[j] * sign > _ZERO else _ZERO)
            total[j] = value if first else total[j] + value
