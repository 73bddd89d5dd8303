"""Further operations, for methods that weigh the inputs against each other at every place.

Descriptions only, as in `operations`, whose words are used here.

A `Value` is one float32 number per place, made from the elements there. Its order statistics come
from counting keys: the 32 bits of a float32, turned so that they order as signed values do, with
NaN, whose sign does not count, above all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from mergebuild.kernels.operations import BLOCK, Map, Shape, Statistic, row_length

FLOOR: Final = 1e-8
"""What is added to every probability before two are compared."""


def _row_grain(shape: Shape) -> int:
    return max(1, row_length(shape))


@dataclass(frozen=True, slots=True)
class Spread:
    """The population variance of the deltas, computed in float64."""


@dataclass(frozen=True, slots=True, eq=False)
class Importance:
    """|d_1| · κ, where `divergences` holds κ of each row, float64 (rows,), rounded once."""

    divergences: Any


@dataclass(frozen=True, slots=True)
class Balance:
    """exp(K·n²)·tanh(d·Σ_j d_j) of one delta, n = (|d| - low)·(1 / (high - low)), 0 if high = low.

    Computed in float64 with the functions of `functions`, Σ_j in the deltas' order. `delta` is its
    position among the deltas, of which there are K; `low` and `high` are float32 values.
    """

    delta: int
    low: float
    high: float


Value: TypeAlias = Spread | Importance | Balance


def _value_grain(values: Sequence[Value], shape: Shape) -> int:
    return _row_grain(shape) if any(isinstance(v, Importance) for v in values) else BLOCK


# Statistics.


@dataclass(frozen=True, slots=True)
class ValueHighCounts(Statistic):
    """Values counted by the high 16 bits of their keys. Result, one per value: int64 (65536,)."""

    values: tuple[Value, ...]

    def grain(self, shape: Shape) -> int:
        return _value_grain(self.values, shape)


@dataclass(frozen=True, slots=True)
class ValueLowCounts(Statistic):
    """Values inside chosen buckets of `ValueHighCounts`, counted by the low 16 bits of their keys.

    `buckets` are the chosen high halves of each value. Result, one per value: a mapping from
    bucket to the counts, int64 (65536,).
    """

    values: tuple[Value, ...]
    buckets: tuple[tuple[int, ...], ...]

    def grain(self, shape: Shape) -> int:
        return _value_grain(self.values, shape)


@dataclass(frozen=True, slots=True)
class ImportanceHighCounts(Statistic):
    """κ of each row, and in the same pass the `ValueHighCounts` of the `Importance` by it.

    κ = Σ p·ln(p/q), p = e_1·(1/Σ e_1) + FLOOR, e_1 = exp(x_1 - s_1), s_1 = 0 where |x_1| ≤ EXP_NEAR
    in the whole row, else max x_1, and q so of x_0, with the functions of `functions`. Value: κ as
    float64 array (rows,), and the counts of the one value.
    """

    def grain(self, shape: Shape) -> int:
        return _row_grain(shape)


@dataclass(frozen=True, slots=True)
class SelectedSquares(Statistic):
    """Σ(m·d_i)² of each delta, m = [`Spread` ≥ least]. Value, one per delta: a float."""

    least: float


@dataclass(frozen=True, slots=True)
class Extremes(Statistic):
    """The least and the largest |d| of each delta. Value: one (low, high) per delta."""


@dataclass(frozen=True, slots=True)
class OverlapCounts(Statistic):
    """At how many places a delta is beyond a threshold, |d| > threshold.

    Value, one per delta: how often with others, how often alone.
    """

    threshold: float


# Maps.


@dataclass(frozen=True, slots=True)
class Average(Map):
    """y = (Σ w_i·x_i) / divisor, summed in the operands' order.

    More exact than a `Combination` where the weights are float32 values and their quotients by the
    divisor are not: the quotient is rounded once, and not in every term.
    """

    weights: tuple[float, ...]
    divisor: float


@dataclass(frozen=True, slots=True)
class Toward(Map):
    """y = b + ω·d, or x where ω = 1; ω = clamp(step / max(|d|, floor), 0, 1). One delta."""

    step: float
    floor: float


@dataclass(frozen=True, slots=True)
class Overlap(Map):
    """y = b + Σ of the d_i beyond a threshold: factor_i·d_i where alone, else divided by how many.

    The factor and the division follow the sum, of which only one term is not 0 in the first case.
    """

    threshold: float
    factors: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Votes(Map):
    """y = b + Σ_A w_i·d_i / max(Σ_A w_i, floor), A the deltas with the sign of Σ d_i (+ if 0).

    Where the deltas' `Spread` is below `least` the deltas count as 0; None keeps all places.
    """

    weights: tuple[float, ...]
    floor: float
    least: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Important(Map):
    """y = b + d where `Importance` ≥ threshold, a float32 value, else b. One delta."""

    importance: Importance
    threshold: float

    def grain(self, shape: Shape) -> int:
        return _row_grain(shape)


@dataclass(frozen=True, slots=True)
class Consensus(Map):
    """y = b + scale·τ where `least` or more deltas have |d_i| > bound_i·|τ - d_i|, else b.

    τ = Σ d_i.
    """

    bounds: tuple[float, ...]
    least: int
    scale: float


@dataclass(frozen=True, slots=True)
class Balanced(Map):
    """y = b + scale · Σ β_i·d_i / Σ β_i, where 0/0 is 0.

    β_i = clamp((v_i - low_i)·(1 / (high_i - low_i)), 0, 1), v_i the `Balance` of delta i. Where
    low_i = high_i it is [v_i, rounded, ≥ high_i and high_i > 0]. In float64 up to the sum that is
    added to b; low_i and high_i are float32 values.
    """

    values: tuple[Balance, ...]
    bounds: tuple[tuple[float, float], ...]
    scale: float


@dataclass(frozen=True, slots=True, eq=False)
class WholeTensors(Map):
    """y = function(operands), whole tensors in float32 and in their shape, on the kernels' device.

    The function returns one tensor of that shape; it may overwrite its operands. If it raises
    where an operand has values that are not finite, the output is NaN.
    """

    function: Callable[[Sequence[Any]], Any]

    def grain(self, shape: Shape) -> int:
        return max(1, math.prod(shape))
