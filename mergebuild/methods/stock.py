"""Model stock: how far to go from the base to the average, from the angles between the deltas."""

from __future__ import annotations

import math
from typing import Annotated, Any

from mergebuild.kernels.operations import Combination, Gram, Report, RowCombination, Steps
from mergebuild.methods.declaration import Arguments, Operands, Paper
from mergebuild.methods.declare import method, shared
from mergebuild.methods.slerp import clamp, norm

FLOOR = 1e-6


def ratio(gram: Any) -> float:
    """t = K·c / (1 + (K-1)·c) for the mean cosine c of all pairs of K deltas; 0 near the pole."""
    k = len(gram)
    n = [norm(gram[i][i]) for i in range(k)]
    cosines = [
        clamp(gram[i][j] / (n[i] * n[j] if n[i] * n[j] > FLOOR else FLOOR))
        for i in range(k)
        for j in range(i + 1, k)
    ]
    c = math.fsum(cosines) / len(cosines)
    divisor = 1.0 + (k - 1) * c
    return 0.0 if abs(divisor) < FLOOR else k * c / divisor


def ratios(gram: Any) -> Any:
    """`ratio` / K of many Gram matrices, float64 (rows, K, K), as coefficients (rows, K)."""
    import numpy as np

    with np.errstate(invalid="ignore"):  # inf / inf is NaN, as it should be
        k = gram.shape[1]
        n = np.sqrt(np.maximum(np.diagonal(gram, axis1=1, axis2=2), 0.0))
        cosine = np.zeros(len(gram))
        for i in range(k):
            for j in range(i + 1, k):
                cosine += np.clip(gram[:, i, j] / np.maximum(n[:, i] * n[:, j], FLOOR), -1.0, 1.0)
        cosine /= k * (k - 1) // 2
        divisor = 1.0 + (k - 1) * cosine
        pole = np.abs(divisor) < FLOOR
        t = np.where(pole, 0.0, k * cosine / np.where(pole, 1.0, divisor))
    return np.repeat((t / k)[:, None], k, axis=1)


def _idle(operands: Operands, arguments: Arguments) -> frozenset[str]:
    return frozenset({"filter_wise"}) if len(operands.shape) < 2 else frozenset()


@method(
    base="required",
    inputs=(2, None),
    missing="base-or-skip",
    papers=(
        Paper(
            "Model stock: all we need is just a few fine-tuned models", "Jang et al.", "2403.19522"
        ),
    ),
    idle=_idle,
)
def model_stock(
    operands: Operands,
    *,
    filter_wise: Annotated[
        bool, shared("One ratio per row of a matrix instead of one per tensor.", default=False)
    ],
) -> Steps:
    """Go from the base towards the average of the others, as far as their angles allow
    (arXiv:2403.19522).

    y = b + t·Σ d_i / K,  t = K·c / (1 + (K - 1)·c),  c the mean cosine of the pairs d_i, d_j

    Products of norms below 1e-6 count as 1e-6, so tiny deltas draw t to 0. t is not limited: it is
    negative for c < 0 and large near the pole; at the pole, within 1e-6, it is 0.
    """
    k = operands.deltas
    if filter_wise and len(operands.shape) > 1:
        return RowCombination("deltas", ratios)
    gram = yield Gram("deltas")
    t = ratio(gram)
    if abs(t) > 1.0:
        yield Report("t is beyond 1: the result lies outside what is averaged")
    return Combination("deltas", (t / k,) * k)
