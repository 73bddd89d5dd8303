"""Spherical interpolation between two vectors: along the arc, not along the chord."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Annotated, Any

from mergebuild.kernels.operations import (
    ColumnCombination,
    Combination,
    Gram,
    Of,
    RowCombination,
    Steps,
)
from mergebuild.methods.declaration import Arguments, Finding, Operands
from mergebuild.methods.declare import Floats, method, per_delta, shared

NEARLY_ZERO = 1e-8
COLINEAR = 0.9995
FLOOR = 1e-7
BALANCE = 1e-6
TAU = 2.0**-23


def clamp(cosine: float) -> float:
    """Limit to [-1, 1]; NaN stays."""
    return -1.0 if cosine < -1.0 else 1.0 if cosine > 1.0 else cosine


def norm(square: float) -> float:
    """√ of a quadratic form, which rounding may leave a little below 0."""
    return math.sqrt(0.0 if square < 0.0 else square)


def arc(cosine: float, t: float) -> tuple[float, float]:
    """The two coefficients at t on the arc between unit vectors with this cosine."""
    theta = math.acos(cosine)
    return (
        math.sin((1.0 - t) * theta) / math.sin(theta),
        math.sin(t * theta) / math.sin(theta),
    )


@method(base="required", inputs=(1, 1), missing="single")
def slerp(
    operands: Operands,
    *,
    t: Annotated[float, shared("Where on the arc: 0 is the base, 1 the other model.")],
) -> Steps:
    """Spherical interpolation from the base to the other model, the tensor taken as one vector.

    y = (sin((1-t)θ)·x_0 + sin(tθ)·x_1) / sin θ,  cos θ = x_0·x_1 / (|x_0|·|x_1|)

    Nearly colinear tensors, |cos θ| > 0.9995, are interpolated linearly. A norm up to 1e-8 counts
    as 1, so a zero tensor is at right angles to any other. t may leave [0, 1].
    """
    gram = yield Gram("inputs")
    n_0, n_1 = (n if (n := norm(gram[i][i])) > NEARLY_ZERO or n != n else 1.0 for i in (0, 1))
    cosine = clamp(gram[0][1] / (n_0 * n_1))
    line = (1.0 - t, t)
    return Combination("inputs", line if abs(cosine) > COLINEAR else arc(cosine, t))


def share(weight: Floats) -> float:
    """How far to go from the first input to the second."""
    total = weight[0] + weight[1]
    return 0.5 if abs(total) < BALANCE else weight[1] / total


def coefficients(gram: Any, t: float) -> tuple[float, float]:
    """nuslerp's two coefficients from a 2 by 2 Gram matrix."""
    n_0, n_1 = (n if (n := norm(gram[i][i])) > FLOOR or n != n else FLOOR for i in (0, 1))
    cosine = clamp(gram[0][1] / (n_0 * n_1))
    return (1.0 - t, t) if 1.0 - cosine * cosine <= TAU else arc(cosine, t)


def solver(t: float) -> Callable[[Any], Any]:
    """`coefficients` of many Gram matrices at once: float64 (vectors, 2, 2) to (vectors, 2).

    The angles come from the same scalar functions, so that they do not depend on what stands
    beside them in the array.
    """
    import numpy as np

    def solve(gram: Any) -> Any:
        n_0, n_1 = (np.maximum(np.sqrt(np.maximum(gram[:, i, i], 0.0)), FLOOR) for i in (0, 1))
        with np.errstate(invalid="ignore"):  # inf / inf is NaN, as it should be
            cosine = np.clip(gram[:, 0, 1] / (n_0 * n_1), -1.0, 1.0)
        result = np.empty((len(gram), 2))
        result[:] = 1.0 - t, t
        curved = np.flatnonzero(~(1.0 - cosine * cosine <= TAU))
        if len(curved):
            result[curved] = [arc(c, t) for c in cosine[curved].tolist()]
        return result

    return solve


def _idle_nuslerp(operands: Operands, arguments: Arguments) -> frozenset[str]:
    if len(operands.shape) < 2:
        return frozenset({"nuslerp_flatten", "nuslerp_row_wise"})
    return frozenset({"nuslerp_row_wise"}) if arguments["nuslerp_flatten"] else frozenset()


def _check_nuslerp(operands: Operands, arguments: Arguments) -> Iterator[Finding]:
    weight: Any = arguments["weight"]
    if len(weight) == 2 and abs(weight[0] + weight[1]) < BALANCE:
        yield Finding("warning", "the weights add up to 0: the middle is taken")


@method(
    base="optional",
    inputs=(2, 2),
    missing="single",
    idle=_idle_nuslerp,
    check=_check_nuslerp,
)
def nuslerp(
    operands: Operands,
    *,
    weight: Annotated[Floats, per_delta("Share of this input; only their ratio counts.")],
    nuslerp_flatten: Annotated[bool, shared("Take the whole tensor as one vector.", default=True)],
    nuslerp_row_wise: Annotated[
        bool,
        shared(
            "Without flatten: vectors along the first axis (columns of an (out, in) matrix, "
            "whatever the name says) instead of along the last.",
            default=False,
        ),
    ],
) -> Steps:
    """Spherical interpolation of two models, or of what they add to a base.

    y = (sin((1-t)θ)·x_1 + sin(tθ)·x_2) / sin θ,  t = w_2 / (w_1 + w_2);  on d_i, + b, with a base

    Vectors with 1 - cos²θ ≤ 2⁻²³, antipodal ones too, are interpolated linearly. Norms are at
    least 1e-7. Weights that add up to 0 give t = ½.
    """
    of: Of = "deltas" if operands.base else "inputs"
    t = share(weight)
    if nuslerp_flatten or len(operands.shape) < 2:
        return Combination(of, coefficients((yield Gram(of)), t))
    if nuslerp_row_wise:
        gram = yield Gram(of, per="column")
        return ColumnCombination(of, solver(t)(gram))
    return RowCombination(of, solver(t))
