"""Random dropping that spares large elements: DELLA's MagPrune."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final, TypeAlias

from mergebuild.kernels.operations import Steps
from mergebuild.methods.declaration import Arguments, Finding, Operands, Paper
from mergebuild.methods.declare import Floats, method, per_delta
from mergebuild.methods.sparsify import dropped_by_rank
from mergebuild.methods.task_vectors import (
    Density,
    Lambda,
    Normalize,
    NormalizeElectedOn,
    RescaleOn,
    Seed,
    Weight,
    check_elected,
    check_plain,
    elected,
    idle_of,
    plain,
)

DELLA: Final = Paper(
    "DELLA-Merging: reducing interference in model merging through magnitude-based sampling",
    "Deep et al.",
    "2406.11617",
)
Epsilon: TypeAlias = Annotated[
    Floats,
    per_delta("How far the probability to stay goes below and above ρ, ε.", default=0.15, low=0.0),
]
Check: TypeAlias = Callable[[Operands, Arguments], Iterator[Finding]]


def _check(rest: Check) -> Check:
    def check(operands: Operands, arguments: Arguments) -> Iterator[Finding]:
        density: Any = arguments["density"]
        epsilon: Any = arguments["epsilon"]
        for rho, eps in zip(density, epsilon, strict=True):
            if 0.0 < rho < 1.0 and not (rho - eps > 0.0 and rho + eps < 1.0):
                message = f"density {rho:g} with epsilon {eps:g}: density ± epsilon leaves (0, 1)"
                yield Finding("error", message)
        yield from rest(operands, arguments)

    return check


@method(
    base="required",
    inputs=(0, None),
    missing="subset",
    papers=(DELLA,),
    random=True,
    inert=("int8_mask",),
    idle=idle_of(elects=True),
    check=_check(check_elected),
)
def della(
    operands: Operands,
    *,
    weight: Weight,
    density: Density,
    epsilon: Epsilon,
    normalize: NormalizeElectedOn,
    rescale: RescaleOn,
    lambda_: Lambda,
    seed: Seed,
) -> Steps:
    """Drop elements at random, small ones more often, then elect and sum as in TIES
    (arXiv:2406.11617).

    δ_i = w_i·f_i·(M_i ⊙ d_i),  M_i ~ Bernoulli(p),  p = ρ - ε + 2ε·r / (L - 1);
    σ = sgn Σδ_i,  A = {i: sgn δ_i = σ},  y = b + λ·Σ_A δ_i / Σ_A w_i

    r is the rank of |d| in its row of length L, 0 the smallest. f_i keeps the L1 norm of the
    tensor, where the paper has 1/p (rescale: inverse). Without normalize the sum is not divided.
    """
    deltas = yield from dropped_by_rank(operands, weight, density, epsilon, rescale)
    return elected(deltas, normalize, lambda_)


@method(
    base="required",
    inputs=(0, None),
    missing="subset",
    papers=(DELLA,),
    random=True,
    inert=("int8_mask",),
    idle=idle_of(elects=False),
    check=_check(check_plain),
)
def della_linear(
    operands: Operands,
    *,
    weight: Weight,
    density: Density,
    epsilon: Epsilon,
    normalize: Normalize,
    rescale: RescaleOn,
    lambda_: Lambda,
    seed: Seed,
) -> Steps:
    """Drop elements at random, small ones more often, and add the rest to the base
    (arXiv:2406.11617).

    y = b + λ·Σ w_i·f_i·(M_i ⊙ d_i),  M_i ~ Bernoulli(p),  p = ρ - ε + 2ε·r / (L - 1)

    r is the rank of |d| in its row of length L, 0 the smallest. f_i keeps the L1 norm of the
    tensor, where the paper has 1/p (rescale: inverse).
    """
    deltas = yield from dropped_by_rank(operands, weight, density, epsilon, rescale)
    return plain(deltas, normalize, lambda_)
