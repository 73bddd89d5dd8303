"""Take over from another model what matters there: by importance, or by how far it moved."""

from __future__ import annotations

from typing import Annotated

from mergebuild.kernels.operations import Map, Steps
from mergebuild.kernels.places import Importance, ImportanceHighCounts, Important, Toward
from mergebuild.methods.declaration import Operands
from mergebuild.methods.declare import method, shared

NEAR = 1e-6


@method(base="required", inputs=(1, 1), missing="single", version=2)
def arcee_fusion(operands: Operands) -> Steps:
    """Take over the elements of outstanding importance, keep the base elsewhere.

    y = b + d·[I ≥ Q_2 + 1.5·(Q_3 - Q_1)],  I = |d|·κ,  κ = Σ p·ln(p / q),
    p = softmax(x) + 1e-8 and q = softmax(b) + 1e-8 over each row

    Q_1, Q_2 and Q_3 are the values of I at the ascending ranks ⌊(n-1)/4⌋, ⌊(n-1)/2⌋ and
    ⌊3(n-1)/4⌋ of the whole tensor, not of a sample. κ is computed in float64, with exp and ln that
    give the same bits on every processor.
    """
    from mergebuild.kernels.ranks import at_least, refined, value

    kappa, high = yield ImportanceHighCounts()
    importance = Importance(kappa)
    last = operands.elements - 1
    ranks = (last // 4, last // 2, 3 * last // 4)
    (found,) = yield from refined((importance,), (high,), (ranks,))
    first, second, third = (value(found.key(rank)) for rank in ranks)
    return Important(importance, at_least(second + 1.5 * (third - first)))


@method(base="required", inputs=(1, 1), missing="base-single")
def nearswap(
    operands: Operands,
    *,
    t: Annotated[float, shared("How far an element may go.")],
) -> Map:
    """Take over elements that are near the base, go a step of t towards the others.

    y = ω·x + (1 - ω)·b,  ω = clamp(t / |x - b|, 0, 1);  with t ≥ 1e-6 this is b + clip(d, -t, t)

    Distances below 1e-6 count as 1e-6. t ≤ 0 keeps the base.
    """
    return Toward(t, NEAR)
