"""Task vectors without their smallest elements and without their outliers."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from mergebuild.kernels.operations import Steps
from mergebuild.methods.declaration import Operands, Paper
from mergebuild.methods.declare import Floats, method, per_delta
from mergebuild.methods.sparsify import middle
from mergebuild.methods.task_vectors import (
    TIES,
    Density,
    Lambda,
    Normalize,
    NormalizeElected,
    RescaleOff,
    Weight,
    check_elected,
    check_plain,
    elected,
    idle_of,
    plain,
)

BREADCRUMBS: Final = Paper(
    "Model breadcrumbs: scaling multi-task model merging with sparse masks",
    "Davari and Belilovsky",
    "2312.06795",
)
Gamma: TypeAlias = Annotated[
    Floats,
    per_delta(
        "Share of the elements that go because they are the largest, γ.",
        default=0.01,
        low=0.0,
        high=1.0,
    ),
]


@method(
    base="required",
    inputs=(0, None),
    missing="subset",
    papers=(BREADCRUMBS,),
    inert=("int8_mask",),
    idle=idle_of(elects=False),
    check=check_plain,
)
def breadcrumbs(
    operands: Operands,
    *,
    weight: Weight,
    density: Density,
    gamma: Gamma,
    normalize: Normalize,
    rescale: RescaleOff,
    lambda_: Lambda,
) -> Steps:
    """Add the middle of each task vector to the base: neither the smallest elements nor the
    outliers (arXiv:2312.06795).

    y = b + λ·Σ w_i·M_i ⊙ d_i,  M_i keeps the ⌊ρn⌋ elements below the ⌊γn⌋ largest |d|

    All that are equal to either end of that range stay too. A tensor of so few elements that ⌊ρn⌋
    is 0 loses its whole delta; density 1 keeps outliers as well.
    """
    deltas = yield from middle(operands, weight, density, gamma, rescale)
    return plain(deltas, normalize, lambda_)


@method(
    base="required",
    inputs=(0, None),
    missing="subset",
    papers=(BREADCRUMBS, TIES),
    inert=("int8_mask",),
    idle=idle_of(elects=True),
    check=check_elected,
)
def breadcrumbs_ties(
    operands: Operands,
    *,
    weight: Weight,
    density: Density,
    gamma: Gamma,
    normalize: NormalizeElected,
    rescale: RescaleOff,
    lambda_: Lambda,
) -> Steps:
    """The middle of each task vector, elected and summed as in TIES (arXiv:2312.06795,
    arXiv:2306.01708).

    δ_i = w_i·M_i ⊙ d_i,  σ = sgn Σδ_i,  A = {i: sgn δ_i = σ},  y = b + λ·Σ_A δ_i

    M_i is that of breadcrumbs. With normalize the sum is divided by Σ_A w_i.
    """
    deltas = yield from middle(operands, weight, density, gamma, rescale)
    return elected(deltas, normalize, lambda_)
