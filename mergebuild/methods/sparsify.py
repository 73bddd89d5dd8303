"""Which elements of each delta stay, and the factor that makes up for the others.

A sparsifier is a generator over statistics that returns a `Sparse` per delta; a method of the
task-vector family is a sparsifier and a way to sum.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from mergebuild.kernels.operations import (
    AbsoluteSums,
    AtLeast,
    Band,
    DropAll,
    Mask,
    Random,
    RankedRandom,
    Sparse,
    Statistic,
)
from mergebuild.methods.declaration import Operands
from mergebuild.methods.declare import Floats

Rescale: TypeAlias = bool | Literal["inverse"]
Sparsified: TypeAlias = Generator[Statistic, Any, tuple[Sparse, ...]]

NEGLIGIBLE = 1e-7


def undecided(density: Floats) -> tuple[int, ...]:
    """The deltas of which some elements stay and some go: 0 < ρ < 1."""
    return tuple(i for i, rho in enumerate(density) if 0.0 < rho < 1.0)


def sparse(
    weight: Floats,
    density: Floats,
    masks: Mapping[int, Mask],
    factors: Mapping[int, float],
) -> tuple[Sparse, ...]:
    """Deltas of ρ ≥ 1 stay whole, those of ρ ≤ 0 go; the others as given."""
    return tuple(
        Sparse(w, None if rho >= 1.0 else masks.get(i, DropAll()), factors.get(i, 1.0))
        for i, (w, rho) in enumerate(zip(weight, density, strict=True))
    )


def l1_factor(before: float, after: float) -> float:
    """Σ|d| / Σ|s|, so that the L1 norm stays; 1 where either is negligible."""
    return 1.0 if before < NEGLIGIBLE or after < NEGLIGIBLE else before / after


def largest(operands: Operands, weight: Floats, density: Floats, rescale: Rescale) -> Sparsified:
    """Keep |d| ≥ its k-th largest value, k = max(1, ⌊ρn⌋)."""
    from mergebuild.kernels.order import keys_at, magnitudes, value

    n = operands.elements
    deltas = undecided(density)
    ranks = {i: (n - max(1, int(density[i] * n)),) for i in deltas}
    factors = inverse(density, deltas) if rescale == "inverse" else {}
    if rescale is True:
        found = yield from magnitudes(ranks, sums=True)
        keys = {i: found[i].keys() for i in deltas}
        factors = {i: l1_factor(found[i].total(), found[i].between(*keys[i])) for i in deltas}
    else:
        keys = yield from keys_at(ranks, n)
    return sparse(weight, density, {i: AtLeast(value(*keys[i])) for i in deltas}, factors)


def middle(
    operands: Operands, weight: Floats, density: Floats, gamma: Floats, rescale: Rescale
) -> Sparsified:
    """Keep the T = ⌊ρn⌋ values of |d| that come below the ⌊γn⌋ largest, and their equals."""
    from mergebuild.kernels.order import keys_at, magnitudes, value

    n = operands.elements
    ranks = {}
    for i in undecided(density):
        count = int(density[i] * n)
        low = max(0, n - count - int(gamma[i] * n))
        if count:
            ranks[i] = (low, low + count - 1)
    factors = inverse(density, tuple(ranks)) if rescale == "inverse" else {}
    if rescale is True:
        found = yield from magnitudes(ranks, sums=True)
        keys = {i: found[i].keys() for i in ranks}
        factors = {i: l1_factor(found[i].total(), found[i].between(*keys[i])) for i in ranks}
    else:
        keys = yield from keys_at(ranks, n)
    masks = {i: Band(value(low), value(high)) for i, (low, high) in keys.items()}
    return sparse(weight, density, masks, factors)


def dropped_out(
    operands: Operands, weight: Floats, density: Floats, rescale: Rescale
) -> Sparsified:
    """Keep each element with probability ρ."""
    deltas = undecided(density)
    masks: dict[int, Mask] = {i: Random(density[i], operands.streams[i]) for i in deltas}
    factors = inverse(density, deltas) if rescale == "inverse" else {}
    if rescale is True:
        factors = yield from l1_factors(masks)
    return sparse(weight, density, masks, factors)


def dropped_by_rank(
    operands: Operands, weight: Floats, density: Floats, epsilon: Floats, rescale: Rescale
) -> Sparsified:
    """Keep each element with a probability between ρ-ε and ρ+ε by the rank of |d| in its row."""
    masks: dict[int, Mask] = {
        i: RankedRandom(density[i], epsilon[i], operands.streams[i], rescale == "inverse")
        for i in undecided(density)
    }
    factors: Mapping[int, float] = {}
    if rescale is True:
        factors = yield from l1_factors(masks)
    return sparse(weight, density, masks, factors)


def l1_factors(masks: Mapping[int, Mask]) -> Generator[Statistic, Any, dict[int, float]]:
    """`l1_factor` of each delta under its mask."""
    if not masks:
        return {}
    sums = yield AbsoluteSums(tuple(masks), tuple(masks.values()))
    return {i: l1_factor(*pair) for i, pair in zip(masks, sums, strict=True)}


def inverse(density: Floats, deltas: Sequence[int]) -> dict[int, float]:
    """The papers' rescaling: 1/ρ, whatever was kept."""
    return {i: 1.0 / density[i] for i in deltas}
