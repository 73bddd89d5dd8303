"""Methods that let the models compete for each place: consensus masks and PCB-Merging."""

from __future__ import annotations

from typing import Annotated

from mergebuild.kernels.operations import Identity, Map, Steps
from mergebuild.kernels.places import Balance, Balanced, Consensus, Extremes
from mergebuild.methods.declaration import Arguments, Operands, Paper
from mergebuild.methods.declare import Floats, method, per_delta, shared
from mergebuild.methods.task_vectors import Density, Lambda


def _idle_consensus(operands: Operands, arguments: Arguments) -> frozenset[str]:
    if operands.deltas == 0:
        return frozenset(arguments)
    agree = arguments["min_agree"]
    return frozenset({"mask_lambda"} if agree == 0 else ())


@method(
    base="required",
    inputs=(0, None),
    missing="subset",
    papers=(
        Paper(
            "Localizing task information for improved model merging and compression",
            "Wang et al.",
            "2405.07813",
        ),
    ),
    idle=_idle_consensus,
)
def consensus_ta(
    operands: Operands,
    *,
    mask_lambda: Annotated[
        Floats,
        per_delta(
            "How far this task vector must stand out to claim a place, λ_i; usual are 0.2 to 0.6.",
            default=0.4,
            low=0.0,
        ),
    ],
    min_agree: Annotated[
        int, shared("How many models must claim a place for it to be merged, k.", default=2, low=0)
    ],
    lambda_: Lambda,
) -> Map:
    """Consensus task arithmetic: sum the task vectors where their TALL masks agree
    (arXiv:2405.07813).

    y = b + λ·[Σ M_i ≥ k]·τ,  M_i = [|d_i| > λ_i·|τ - d_i|],  τ = Σ d_i

    k = 2 drops what one model alone has claimed, and what none has.
    """
    if operands.deltas == 0:
        return Identity()
    return Consensus(mask_lambda, min_agree, lambda_)


def _idle_pcb(operands: Operands, arguments: Arguments) -> frozenset[str]:
    return frozenset(arguments) if operands.deltas == 0 else frozenset()


@method(
    base="required",
    inputs=(0, None),
    missing="subset",
    papers=(Paper("Parameter competition balancing for model merging", "Du et al.", "2410.02396"),),
    idle=_idle_pcb,
    version=2,
)
def pcb_merging(operands: Operands, *, density: Density, lambda_: Lambda) -> Steps:
    """Weigh each element by its size within its model and its agreement with the others
    (arXiv:2410.02396).

    y = b + λ·Σ β_i·d_i / Σ β_i,  β_i = scale_ρ(exp(K·n_i²)·tanh(d_i·Σ_j d_j)),
    n_i = (|d_i| - min|d_i|) / (max|d_i| - min|d_i|)

    scale draws the elements from the max(1, ⌊ρn⌋)-th largest on up to [0, 1] and the others to 0;
    if the former are all equal they become 1, or 0 where they are not above 0. Minima, maxima and
    ranks are those of the tensor, where the paper looks at the whole model. β is computed in
    float64, with exp and tanh that give the same bits on every processor.
    """
    from mergebuild.kernels.ranks import keys_at, value

    if operands.deltas == 0:
        return Identity()
    n = operands.elements
    extremes = yield Extremes()
    values = tuple(Balance(i, low, high) for i, (low, high) in enumerate(extremes))
    ranks = [(n - max(1, int(rho * n)), n - 1) for rho in density]
    keys = yield from keys_at(values, ranks, n)
    bounds = tuple((value(least), value(most)) for least, most in keys)
    return Balanced(values, bounds, lambda_)
