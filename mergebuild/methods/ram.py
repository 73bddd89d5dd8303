"""Reinforced agent merging: changes that models share are averaged, those of one model kept."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from mergebuild.kernels.operations import Identity, Map, Steps
from mergebuild.kernels.places import Overlap, OverlapCounts
from mergebuild.methods.declaration import Arguments, Operands, Paper
from mergebuild.methods.declare import method, shared

RAM: Final = Paper(
    "Behavior knowledge merge in reinforced agentic models", "Yuan et al.", "2601.13572"
)
_EPSILON: Final = "Elements that moved by no more than this count as unchanged."
Epsilon: TypeAlias = Annotated[float, shared(_EPSILON, default=1e-5, low=0.0)]
PositiveEpsilon: TypeAlias = Annotated[
    float, shared(_EPSILON, default=1e-5, low=0.0, low_open=True)
]


def _idle(operands: Operands, arguments: Arguments) -> frozenset[str]:
    if operands.deltas == 0:
        return frozenset(arguments)
    if "r" not in arguments:
        return frozenset()
    if operands.deltas == 1:
        return frozenset({"r", "alpha"})
    return frozenset({"alpha"} if arguments["r"] == 0.0 else ())


@method(base="required", inputs=(0, None), missing="subset", papers=(RAM,), idle=_idle)
def ram(operands: Operands, *, epsilon: Epsilon) -> Map:
    """Average what several models changed, keep what one model alone changed (arXiv:2601.13572).

    y = b + Σ M_i·d_i / C,  M_i = [|d_i| > ε],  C = Σ M_i;  y = b where C = 0
    """
    if operands.deltas == 0:
        return Identity()
    return Overlap(epsilon, (1.0,) * operands.deltas)


@method(base="required", inputs=(0, None), missing="subset", papers=(RAM,), idle=_idle)
def ramplus_tl(
    operands: Operands,
    *,
    r: Annotated[float, shared("How much overlap amplifies.", default=0.1)],
    alpha: Annotated[float, shared("The largest overlap that counts.", default=0.2, low=0.0)],
    epsilon: PositiveEpsilon,
) -> Steps:
    """As ram, and amplify what one model alone changed the more it overlaps with others elsewhere
    (arXiv:2601.13572).

    y = b + Σ M_i·d_i·(λ_i where C = 1, 1 / C where C > 1),  M_i = [|d_i| > ε],  C = Σ M_i,
    λ_i = 1 + r·clamp(S_i / U_i, 0, α)

    S_i counts the places of the tensor that model i changed together with others, U_i those that
    it changed alone; U_i counts as at least ε.
    """
    if operands.deltas == 0:
        return Identity()
    counts = yield OverlapCounts(epsilon)
    overlaps = (min(shared_ / max(alone, epsilon), alpha) for shared_, alone in counts)
    return Overlap(epsilon, tuple(1.0 + r * overlap for overlap in overlaps))
