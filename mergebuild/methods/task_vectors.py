"""Sums of sparsified task vectors d_i = x_i - b: task arithmetic, TIES and DARE."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final, Literal, TypeAlias

from mergebuild.kernels.operations import (
    Identity,
    Map,
    Sparse,
    Steps,
    TaskVectors,
    row_length,
)
from mergebuild.methods.declaration import Arguments, Finding, Operands, Paper
from mergebuild.methods.declare import Floats, method, per_delta, shared
from mergebuild.methods.sparsify import dropped_out, largest

NEARLY_ZERO = 1e-8

Weight: TypeAlias = Annotated[Floats, per_delta("Factor of this task vector, w_i.")]
Density: TypeAlias = Annotated[
    Floats, per_delta("Share of the elements that stay, ρ.", default=1.0, low=0.0, high=1.0)
]
Lambda: TypeAlias = Annotated[float, shared("Factor of the summed task vectors.", default=1.0)]
Seed: TypeAlias = Annotated[int, shared("Which random masks are drawn.", default=0)]
_RESCALE: Final = (
    "Make up for what was dropped: true keeps the L1 norm, inverse divides by ρ as in the papers."
)
_NORMALIZE: Final = "Divide the sum by the sum of the weights"
RescaleOff: TypeAlias = Annotated[bool | Literal["inverse"], shared(_RESCALE, default=False)]
RescaleOn: TypeAlias = Annotated[bool | Literal["inverse"], shared(_RESCALE, default=True)]
Normalize: TypeAlias = Annotated[bool, shared(f"{_NORMALIZE}.", default=False)]
NormalizeElected: TypeAlias = Annotated[
    bool, shared(f"{_NORMALIZE} that agree with the elected sign.", default=False)
]
NormalizeElectedOn: TypeAlias = Annotated[
    bool, shared(f"{_NORMALIZE} that agree with the elected sign.", default=True)
]

TIES: Final = Paper(
    "TIES-Merging: resolving interference when merging models", "Yadav et al.", "2306.01708"
)
DARE: Final = Paper(
    "Language models are super Mario: absorbing abilities from homologous models as a free lunch",
    "Yu et al.",
    "2311.03099",
)


def plain(deltas: tuple[Sparse, ...], normalize: bool, lambda_: float) -> Map:
    """y = b + λ·Σδ_i, divided by Σw_i if `normalize`; a sum of weights about 0 counts as 1."""
    if not deltas:
        return Identity()
    total = math.fsum(delta.weight for delta in deltas) if normalize else 1.0
    return TaskVectors(deltas, divisor=1.0 if abs(total) < NEARLY_ZERO else total, scale=lambda_)


def elected(deltas: tuple[Sparse, ...], normalize: bool, lambda_: float) -> Map:
    """`plain`, at each place over the δ_i that have the sign of their sum only."""
    if not deltas:
        return Identity()
    return TaskVectors(deltas, elect=True, divisor="elected" if normalize else 1.0, scale=lambda_)


def check_plain(operands: Operands, arguments: Arguments) -> Iterator[Finding]:
    weight: Any = arguments["weight"]
    if weight and arguments["normalize"] and abs(math.fsum(weight)) < NEARLY_ZERO:
        yield Finding("warning", "the weights add up to 0: the sum is not normalized")


def check_elected(operands: Operands, arguments: Arguments) -> Iterator[Finding]:
    weight: Any = arguments["weight"]
    if arguments["normalize"] and any(w < 0 for w in weight):
        message = "with `normalize` a negative weight loses its sign"
        if any(w > 0 for w in weight):
            message += ", and weights of both signs may cancel to a divisor near 0"
        yield Finding("warning", message)


def idle_of(*, elects: bool) -> Callable[[Operands, Arguments], frozenset[str]]:
    """What has no effect on a method of this family; `elects` says whether signs are voted on."""

    def idle(operands: Operands, arguments: Arguments) -> frozenset[str]:
        weight: Any = arguments["weight"]
        density: Any = arguments.get("density", ())
        names: set[str] = set()
        if operands.deltas == 0:
            names.update(arguments)
        if all(rho >= 1.0 or rho <= 0.0 for rho in density):
            names.update({"rescale", "seed", "gamma", "epsilon"} & set(arguments))
        if row_length(operands.shape) == 1:
            names.update({"epsilon"} & set(arguments))
        total = math.fsum(weight)
        if not elects and (total == 1.0 or abs(total) < NEARLY_ZERO):
            names.add("normalize")
        return frozenset(names)

    return idle


@method(
    base="required",
    inputs=(0, None),
    missing="subset",
    papers=(Paper("Editing models with task arithmetic", "Ilharco et al.", "2212.04089"),),
    inert=("density", "int8_mask", "rescale"),
    idle=idle_of(elects=False),
    check=check_plain,
)
def task_arithmetic(
    operands: Operands, *, weight: Weight, normalize: Normalize, lambda_: Lambda
) -> Map:
    """Add weighted task vectors to the base (arXiv:2212.04089).

    y = b + λ·Σ w_i·d_i,  d_i = x_i - b;  the sum divided by Σw_i if normalize

    A sum of weights about 0 is not divided by.
    """
    return plain(tuple(map(Sparse, weight)), normalize, lambda_)


@method(
    base="required",
    inputs=(0, None),
    missing="subset",
    papers=(TIES,),
    inert=("int8_mask",),
    idle=idle_of(elects=True),
    check=check_elected,
)
def ties(
    operands: Operands,
    *,
    weight: Weight,
    density: Density,
    normalize: NormalizeElectedOn,
    rescale: RescaleOff,
    lambda_: Lambda,
) -> Steps:
    """Trim each task vector to its largest elements, elect a sign, sum those that agree
    (arXiv:2306.01708).

    δ_i = w_i·trim_ρ(d_i),  σ = sgn Σδ_i,  A = {i: sgn δ_i = σ},  y = b + λ·Σ_A δ_i / Σ_A w_i

    trim keeps |d| ≥ the max(1, ⌊ρn⌋)-th largest of the tensor and all that are equal to it, where
    the paper looks at the whole model. Without normalize the sum is not divided.
    """
    deltas = yield from largest(operands, weight, density, rescale)
    return elected(deltas, normalize, lambda_)


@method(
    base="required",
    inputs=(0, None),
    missing="subset",
    papers=(DARE,),
    random=True,
    inert=("int8_mask",),
    idle=idle_of(elects=False),
    check=check_plain,
)
def dare_linear(
    operands: Operands,
    *,
    weight: Weight,
    density: Density,
    normalize: Normalize,
    rescale: RescaleOn,
    lambda_: Lambda,
    seed: Seed,
) -> Steps:
    """Drop elements of each task vector at random, rescale, and add the rest to the base
    (arXiv:2311.03099).

    y = b + λ·Σ w_i·f_i·(M_i ⊙ d_i),  M_i ~ Bernoulli(ρ)

    f_i keeps the L1 norm of the tensor, where the paper has 1/ρ (rescale: inverse).
    """
    deltas = yield from dropped_out(operands, weight, density, rescale)
    return plain(deltas, normalize, lambda_)


@method(
    base="required",
    inputs=(0, None),
    missing="subset",
    papers=(DARE, TIES),
    random=True,
    inert=("int8_mask",),
    idle=idle_of(elects=True),
    check=check_elected,
)
def dare_ties(
    operands: Operands,
    *,
    weight: Weight,
    density: Density,
    normalize: NormalizeElected,
    rescale: RescaleOn,
    lambda_: Lambda,
    seed: Seed,
) -> Steps:
    """Drop elements of each task vector at random, rescale, elect a sign, sum those that agree
    (arXiv:2311.03099, arXiv:2306.01708).

    δ_i = w_i·f_i·(M_i ⊙ d_i),  M_i ~ Bernoulli(ρ),  σ = sgn Σδ_i,  y = b + λ·Σ_A δ_i

    f_i keeps the L1 norm of the tensor, where the paper has 1/ρ (rescale: inverse). With normalize
    the sum is divided by Σ_A w_i.
    """
    deltas = yield from dropped_out(operands, weight, density, rescale)
    return elected(deltas, normalize, lambda_)
