"""The outline of what a reference `model+adapter` means where one of the two is a node.

The same fit as that of two sources (`checkpoint/lora.py`), over outlines instead of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path

from mergebuild.checkpoint.adapter import CONFIG, Adapter, adapter_of, read_settings
from mergebuild.checkpoint.dtypes import itemsize
from mergebuild.checkpoint.header import TensorInfo
from mergebuild.checkpoint.lora import DTYPE, LowRank, adapt
from mergebuild.checkpoint.source import Checkpoint
from mergebuild.errors import CheckpointError, Problem, RecipeError
from mergebuild.expression import Expression, Operand, tensor_key
from mergebuild.methods.declaration import Method
from mergebuild.operations import APPLY
from mergebuild.plan.node import Outlined
from mergebuild.plan.outline import Outline, TensorOutline, make_outline
from mergebuild.recipe import Application, ModelRef, Node


def outline_application(
    node: Node,
    body: Application,
    methods: Mapping[str, Method],
    outlines: Mapping[ModelRef, Outline],
) -> Outlined:
    """Raises RecipeError where the two do not fit."""
    model, adapter = outlines[body.model], outlines[body.adapter]
    infos = {info: t for o in (model, adapter) for info, t in _infos(o).items()}
    owners = {Path(o.name): r for r, o in ((body.model, model), (body.adapter, adapter))}
    try:
        fitted = adapt(_checkpoint(model), {}, _adapter(adapter))
    except CheckpointError as error:
        raise RecipeError(*(Problem(p.message, node.at, p.hint) for p in error.problems)) from error

    def operand(info: TensorInfo) -> Operand:
        tensor = infos[info]
        return Operand(str(owners[info.file]), info.name, tensor.key, tensor.dtype, tensor.shape)

    passthrough = methods["passthrough"]
    expressions: dict[str, Expression] = {}
    counts: dict[str, str | None] = {}
    for name, info in fitted.checkpoint.tensors.items():
        counts[name] = infos[info].counts_as
        expressions[name] = Expression(
            method=passthrough.name,
            version=passthrough.version,
            operands=(operand(info),),
            base=False,
            arguments={"scale": (None,)},
            dtype=info.dtype,
            shape=info.shape,
        )
    for name, derived in fitted.derived.items():
        assert isinstance(derived, LowRank)  # what an outline has is dequantised already
        own = derived.weight
        assert isinstance(own, TensorInfo)
        counts[name] = infos[own].counts_as or own.dtype
        expressions[name] = Expression(
            method=APPLY.name,
            version=APPLY.version,
            operands=tuple(map(operand, (own, derived.a, derived.b))),
            base=False,
            arguments={"scale": derived.scale, "transposed": derived.transposed},
            dtype=DTYPE,
            shape=own.shape,
        )
    tensors = {
        name: TensorOutline(tensor_key(e), e.dtype, e.shape, counts[name])
        for name, e in sorted(expressions.items())
    }
    return Outlined(
        make_outline(node.name, tensors, model.config, model.side_files),
        expressions,
        {str(reference): reference for reference in (body.model, body.adapter)},
        fitted.notes,
    )


def _infos(outline: Outline) -> dict[TensorInfo, TensorOutline]:
    """The tensors as if they lay in a file of the outline's name."""
    return {
        TensorInfo(
            name, t.dtype, t.shape, Path(outline.name), 0, prod(t.shape) * itemsize(t.dtype)
        ): t
        for name, t in outline.tensors.items()
    }


def _checkpoint(outline: Outline) -> Checkpoint:
    return Checkpoint(
        name=outline.name,
        path=Path(outline.name),
        tensors={info.name: info for info in _infos(outline)},
        files=(),
        stamps={},
        config=outline.config,
        config_text=None,
        side_files=(),
        card_metadata={},
    )


def _adapter(outline: Outline) -> Adapter:
    place = Path(outline.name)
    file = next(file for file in outline.side_files if file.name == CONFIG)
    settings = read_settings(place, file.data if file.data is not None else file.path)
    return adapter_of(_checkpoint(outline), settings)
