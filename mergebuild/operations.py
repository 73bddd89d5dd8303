"""What nodes do besides merging: names and versions, which are part of keys, and what they are.

As a method's, a version is to be raised when the numbers change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from mergebuild.methods.declaration import Operands, Paper, nothing_held


@dataclass(frozen=True, slots=True)
class Operation:
    """One of them; `papers` say where it comes from, `held` is as a method's."""

    name: str
    version: int
    summary: str
    papers: tuple[Paper, ...] = ()
    held: Callable[[Operands], int] = nothing_held


def _decomposed(operands: Operands) -> int:
    """Two matrices in float64, and a square of the shorter side with what decomposing it takes."""
    return 8 * (2 * operands.elements + 3 * min(operands.shape) ** 2)


EXTRACT: Final = Operation(
    "extract_lora",
    1,
    "The best approximation of rank r of what a finetune changed, as a LoRA.",
    (Paper("LoRA: low-rank adaptation of large language models", "Hu et al.", "2106.09685"),),
    _decomposed,
)
"""Operands W of the base and W' of the model, in this order; the parts `a` [r, in] and `b` [out, r]
of s·B·A ≈ W' - W, or of its transpose."""

APPLY: Final = Operation(
    "apply_lora", 1, "A LoRA put on a model: W + s·B·A, in float32.", EXTRACT.papers
)
"""Operands W, A and B."""

GATES: Final = Operation("moe_gates", 1, "The rows of a router, given or drawn at random.")
"""Operands are the given vectors. `expert` says of each whose row it is, `row` which row of the
operand; a row that nobody gives is drawn evenly, of mean 0 and deviation `deviation`."""

MIXTURE: Final = Operation(
    "moe",
    1,
    "A mixture of experts from the feed-forward layers of dense models.",
    (
        Paper("Mixtral of experts", "Jiang et al.", "2401.04088"),
        Paper(
            "Sparse upcycling: training mixture-of-experts from dense checkpoints",
            "Komatsuzaki et al.",
            "2212.05055",
        ),
    ),
)

OPERATIONS: Final[Mapping[str, Operation]] = {
    operation.name: operation for operation in (EXTRACT, APPLY, GATES, MIXTURE)
}
