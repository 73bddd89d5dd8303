"""Averages of directions: many vectors on a sphere, their lengths averaged by themselves.

Both methods are linear combinations whose coefficients follow from the Gram matrix alone, so they
iterate on K numbers and never on tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

from mergebuild.kernels.operations import Combination, Gram, Identity, Of, Report, Steps
from mergebuild.methods.declaration import Arguments, Finding, Operands, Paper
from mergebuild.methods.declare import Floats, method, per_delta, shared
from mergebuild.methods.linear import NEARLY_ZERO, total
from mergebuild.methods.slerp import clamp, norm


def norms(gram: Any) -> list[float]:
    return [norm(row[i]) for i, row in enumerate(gram)]


def form(gram: Any, c: list[float]) -> float:
    """√(cᵀGc), the norm of Σ c_i·x_i."""
    return norm(math.fsum(a * b * gram[i][j] for i, a in enumerate(c) for j, b in enumerate(c)))


def _check_multislerp(operands: Operands, arguments: Arguments) -> Iterator[Finding]:
    weight: Any = arguments["weight"]
    if len(weight) > 1 and arguments["normalize_weights"] and abs(total(weight)) < NEARLY_ZERO:
        yield Finding("error", "the weights add up to 0 and cannot be normalized")


def _idle_multislerp(operands: Operands, arguments: Arguments) -> frozenset[str]:
    if operands.deltas == 1:
        return frozenset({"weight", "normalize_weights", "eps"})
    one = total(arguments["weight"]) == 1.0
    return frozenset({"normalize_weights"}) if one else frozenset()


@method(
    base="optional",
    inputs=(1, None),
    missing="subset",
    idle=_idle_multislerp,
    check=_check_multislerp,
)
def multislerp(
    operands: Operands,
    *,
    weight: Annotated[Floats, per_delta("How much of this input, w_i.")],
    normalize_weights: Annotated[bool, shared("Divide the weights by their sum.", default=True)],
    eps: Annotated[
        float,
        shared(
            "Added to norms; below it the mean has no direction.",
            default=1e-8,
            low=0.0,
            low_open=True,
        ),
    ],
) -> Steps:
    """Spherical average of any number of models, or of what they add to a base.

    y = A·m / |m|,  m = Σ w_i·x_i / (|x_i| + eps),  A = Σ w_i·|x_i|;  on d_i, + b, with a base

    The mean direction with the mean length: a step in the tangent space at the mean direction, as
    the method is often described, vanishes there. Where |m| < eps the directions cancel, and
    y = Σ w_i·x_i. One model alone is copied, base or not.
    """
    if operands.deltas == 1:
        return Identity(int(operands.base))
    of: Of = "deltas" if operands.base else "inputs"
    sum_of_weights = total(weight) if normalize_weights else 1.0
    w = [one / sum_of_weights for one in weight]
    gram = yield Gram(of)
    n = norms(gram)
    c = [w_i / (n_i + eps) for w_i, n_i in zip(w, n, strict=True)]
    length = form(gram, c)
    if length < eps:
        yield Report("the directions cancel out: inputs are averaged instead")
        return Combination(of, tuple(w))
    scale = math.fsum(w_i * n_i for w_i, n_i in zip(w, n, strict=True)) / length
    return Combination(of, tuple(scale * c_i for c_i in c))


def _idle_karcher(operands: Operands, arguments: Arguments) -> frozenset[str]:
    return frozenset({"max_iter", "tol"}) if operands.count == 1 else frozenset()


@method(
    base="ignored",
    inputs=(1, None),
    missing="subset",
    papers=(
        Paper(
            "Functionality-oriented LLM merging on the Fisher-Rao manifold",
            "Wang et al.",
            "2603.04972",
        ),
    ),
    idle=_idle_karcher,
)
def karcher(
    operands: Operands,
    *,
    max_iter: Annotated[int, shared("Steps at most.", default=10, low=0)],
    tol: Annotated[
        float,
        shared(
            "Norms, angles and steps up to this count as 0.", default=1e-5, low=0.0, low_open=True
        ),
    ],
) -> Steps:
    """Karcher mean: the direction with the least squared angles to all inputs (arXiv:2603.04972).

    y = A·argmin_u Σ θ(u, x_i)²,  A = Σ|x_i| / N,  |u| = 1

    From the mean direction, steps of u ← cos|τ|·u + sin|τ|·τ/|τ| along the mean tangent
    τ = Σ (θ_i / sin θ_i)·(u_i - cos θ_i·u) / |V|. Inputs of norm up to tol have no direction and
    shorten the result only; those at an angle within tol of 0 or π pull nowhere.
    """
    if operands.count == 1:
        return Identity()
    gram = yield Gram("inputs")
    n = norms(gram)
    nonzero = [i for i, n_i in enumerate(n) if not n_i <= tol]
    if not nonzero:
        return Combination("inputs", (0.0,) * len(n))
    u = [[gram[i][j] / (n[i] * n[j]) for j in nonzero] for i in nonzero]
    c = mean_direction(u, max_iter, tol)
    coefficients = [0.0] * len(n)
    for i, c_i in zip(nonzero, c, strict=True):
        coefficients[i] = math.fsum(n) / len(n) * c_i / n[i]
    return Combination("inputs", tuple(coefficients))


def mean_direction(u: list[list[float]], max_iter: int, tol: float) -> list[float]:
    """Coefficients of the Karcher mean of unit vectors, from their cosines."""
    share = 1.0 / len(u)
    c = [share] * len(u)
    length = form(u, c)
    c = [1.0] + [0.0] * (len(u) - 1) if length < tol else [c_i / length for c_i in c]
    for _ in range(max_iter):
        step = [0.0] * len(u)
        for i, row in enumerate(u):
            s = clamp(math.fsum(a * b for a, b in zip(row, c, strict=True)))
            theta = math.acos(s)
            if theta < tol or theta > math.pi - tol:
                continue
            pull = share * theta / math.sin(theta)
            step[i] += pull
            step = [a - pull * s * b for a, b in zip(step, c, strict=True)]
        size = form(u, step)
        if size < tol:
            break
        c = [math.cos(size) * a + math.sin(size) * b / size for a, b in zip(c, step, strict=True)]
        length = form(u, c)
        c = [c_i / length for c_i in c]
    return c
