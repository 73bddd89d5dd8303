"""The expression of a mixture's router: which rows are given and by what, and which are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mergebuild.checkpoint.dtypes import is_floating
from mergebuild.errors import did_you_mean
from mergebuild.expression import Expression, Operand
from mergebuild.operations import GATES
from mergebuild.plan.outline import Outline
from mergebuild.plan.remarks import Remarks
from mergebuild.plan.sizes import shape_text
from mergebuild.recipe import Expert, ModelRef, Source

_DEVIATION: Final = 0.02


@dataclass(frozen=True, slots=True)
class Router:
    """A router's weight, [experts, hidden], in the layer with this number of so many layers.

    `deviation` is what the base's config says of weights that are drawn, if it does.
    """

    name: str
    layer: int
    layers: int
    hidden: int
    dtype: str
    deviation: object


def router(
    made: Router,
    experts: Sequence[Expert],
    gates: Source | None,
    outlines: Mapping[ModelRef, Outline],
    seed: int,
    remarks: Remarks,
) -> Expression:
    """One row an expert, in their order; `remarks` is told of vectors that do not fit."""
    operands: list[Operand] = []
    whose: list[int] = []
    rows: list[int] = []
    for index, expert in enumerate(experts):
        if expert.gate is None or gates is None:
            continue
        found = _vector(made, expert, gates, outlines[gates], remarks)
        if found is not None:
            operands.append(found[0])
            rows.append(found[1])
            whose.append(index)
    drawn = len(operands) < len(experts)
    return Expression(
        method=GATES.name,
        version=GATES.version,
        operands=tuple(operands),
        base=False,
        arguments={
            "expert": tuple(whose),
            "row": tuple(rows),
            **({"seed": seed, "deviation": _positive(made.deviation)} if drawn else {}),
        },
        dtype=made.dtype,
        shape=(len(experts), made.hidden),
        stream=made.name if drawn else None,
    )


def _vector(
    made: Router, expert: Expert, gates: Source, outline: Outline, remarks: Remarks
) -> tuple[Operand, int] | None:
    """The tensor, [hidden] or [layers, hidden], and the row of it that is this layer's."""
    gate = expert.gate or ""
    name = next((n for n in (gate, f"{gate}.{made.layer}") if n in outline.tensors), None)
    if name is None:
        known = sorted({*outline.tensors, *(n.rpartition(".")[0] or n for n in outline.tensors)})
        said = f"'{gates}' has neither a tensor '{gate}' nor '{gate}.{made.layer}'"
        remarks.problem(said, made.name, expert.at, did_you_mean(gate, known))
        return None
    tensor = outline.tensors[name]
    whole = (made.layers, made.hidden)
    if tensor.shape not in ((made.hidden,), whole) or not is_floating(tensor.dtype):
        remarks.problem(
            f"vectors of '{gates}' are {tensor.dtype} {shape_text(tensor.shape)}",
            name,
            expert.at,
            f"expected are numbers of floating point, [{made.hidden}] or {list(whole)}",
        )
        return None
    row = made.layer if len(tensor.shape) == 2 else 0
    return Operand(str(gates), name, tensor.key, tensor.dtype, tensor.shape), row


def _positive(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1:
        return float(value)
    return _DEVIATION
