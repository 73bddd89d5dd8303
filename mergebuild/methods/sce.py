"""SCE: select where the models differ, calculate what each contributed, erase what disagrees."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Annotated

from mergebuild.kernels.operations import Gram, Identity, Report, Steps
from mergebuild.kernels.places import SelectedSquares, Spread, Votes
from mergebuild.methods.declaration import Arguments, Operands, Paper
from mergebuild.methods.declare import method, shared

DIVISOR = 1e-6


def shares(
    squares: Sequence[float], elements: int, floor: float
) -> Generator[Report, None, tuple[float, ...]]:
    """W_i = q_i / Σq for q_i = Σd_i²/n; equal where Σq is below the floor or 0."""
    q = [square / elements for square in squares]
    whole = math.fsum(q)
    if 0.0 < whole < floor and len(q) > 1:
        yield Report("the task vectors are below `floor`: all inputs count alike")
    if whole < floor or whole == 0.0:
        return (1.0 / len(q),) * len(q)
    return tuple(one / whole for one in q)


def _idle(operands: Operands, arguments: Arguments) -> frozenset[str]:
    if operands.deltas == 0:
        return frozenset(arguments)
    if operands.deltas == 1:  # nothing varies: with a selection nothing is left, else W = 1
        return frozenset({"floor"})
    return frozenset({"floor"}) if arguments["select_topk"] == 0.0 else frozenset()


@method(
    base="required",
    inputs=(0, None),
    missing="subset",
    version=2,
    papers=(Paper("FuseChat: knowledge fusion of chat models", "Wan et al.", "2408.07990"),),
    inert=("int8_mask",),
    idle=_idle,
)
def sce(
    operands: Operands,
    *,
    select_topk: Annotated[
        float,
        shared(
            "Share of the places, among those where the inputs differ, that are merged.",
            default=1.0,
            low=0.0,
            high=1.0,
        ),
    ],
    floor: Annotated[
        float,
        shared(
            "Mean square of the task vectors below which they count alike; 0 is the paper's rule.",
            default=1e-6,
            low=0.0,
        ),
    ],
) -> Steps:
    """Merge the places of greatest variance, weigh models by the energy of what they changed there,
    sum those that agree in sign (arXiv:2408.07990).

    y = b + Σ_A W_i·d_i / Σ_A W_i,  W_i = q_i / Σq,  q_i = mean of d_i²,  A = {i: sgn d_i = sgn Σd}

    With select_topk < 1 the d_i are 0 but at the places of the largest variance over the models,
    ⌊select_topk·(places of variance > 0)⌋ of them and their equals. The sum of the weights counts
    as at least 1e-6. If Σq < floor all W_i are the same, which with the default happens to task
    vectors below about 7e-4 rms.
    """
    if operands.deltas == 0:
        return Identity()
    n = operands.elements
    if select_topk >= 1.0:
        gram = yield Gram("deltas")
        weights = yield from shares([row[i] for i, row in enumerate(gram)], n, floor)
        return Votes(weights, DIVISOR)

    from mergebuild.kernels.ranks import largest_nonzero, value

    key = yield from largest_nonzero(Spread(), select_topk, n)
    if key is None:
        return Votes((0.0,) * operands.deltas, DIVISOR, math.inf)
    least = value(key)
    squares = yield SelectedSquares(least)
    weights = yield from shares(squares, n, floor)
    return Votes(weights, DIVISOR, least)
