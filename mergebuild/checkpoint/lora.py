"""A LoRA fitted to its model: which tensors are the model's, which the adapter's, and which follow
from both as W + s·B·A.

    W  [out, in]   the model's weight        A  [r, in], B  [out, r]   the adapter's
    s  alpha / r, or alpha / √r with rslora

Decides by names and shapes; reads and computes nothing. A weight that is stored as [in, out], as in
GPT-2 and in embeddings, gets s·(B·A)ᵀ = s·Aᵀ·Bᵀ.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Final, TypeAlias

from mergebuild.checkpoint.adapter import Adapter, Delta, some
from mergebuild.checkpoint.dtypes import is_floating
from mergebuild.checkpoint.header import TensorInfo
from mergebuild.checkpoint.scaled import Scaled
from mergebuild.checkpoint.source import Checkpoint
from mergebuild.digest import FieldValue, fields_digest
from mergebuild.errors import CheckpointError

VERSION: Final = 1
"""Part of every key of a derived tensor: to be raised when its values change.

1: A, B and W as float64, their sum of products added to W, rounded once to float32.
"""
DTYPE: Final = "float32"

_PREFIXES: Final = (
    ("", ""), ("model.", ""), ("", "model."), ("transformer.", ""), ("", "transformer."),
    ("model.language_model.", "language_model.model."),
    ("language_model.model.", "model.language_model."),
    ("model.", "model.language_model."), ("model.", "language_model.model."),
)  # fmt: skip
"""How names in an adapter and in its model may differ: (beginning there, beginning here)."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """A tensor that is `weight` + `scale`·B·A, of the weight's shape, in float32."""

    weight: TensorInfo | Scaled
    a: TensorInfo
    b: TensorInfo
    scale: float
    transposed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    @property
    def dtype(self) -> str:
        return DTYPE

    @property
    def counts_as(self) -> str:
        """The dtype of the weight that the adapter is for."""
        return self.weight.counts_as if isinstance(self.weight, Scaled) else self.weight.dtype

    def key(self, keys: Mapping[TensorInfo, str]) -> str:
        """Its tensor key, from those of what it is made of."""
        own = self.weight
        fields: list[tuple[str, FieldValue]] = [
            ("operation", "lora"),
            ("version", VERSION),
            ("weight", own.key(keys) if isinstance(own, Scaled) else keys[own]),
            ("a", keys[self.a]),
            ("b", keys[self.b]),
            ("scale", self.scale),
            ("transposed", self.transposed),
        ]
        return fields_digest("derived", fields)


Derived: TypeAlias = LowRank | Scaled
"""A tensor that lies in no file, but follows from some that do. Each says its shape, the dtype that
it is read in, the one that it counts as, and its key."""


@dataclass(frozen=True, slots=True)
class Adapted:
    """A model with a LoRA. `checkpoint` has the tensors that lie in a file, the model's or the
    adapter's, `derived` the others; `notes` say what the user should know."""

    checkpoint: Checkpoint
    derived: Mapping[str, Derived]
    notes: tuple[str, ...]


def adapt(model: Checkpoint, scaled: Mapping[str, Scaled], adapter: Adapter) -> Adapted:
    """Fit an adapter to its model, whose tensors are its stored ones and those in `scaled`.

    Raises CheckpointError where they do not fit.
    """
    there: dict[str, TensorInfo | Scaled] = {**model.tensors, **scaled}
    old, new = _prefix(there, adapter)
    stored = dict(model.tensors)
    derived: dict[str, Derived] = dict(scaled)
    for name, tensor in adapter.saved.items():
        own = _renamed(name, old, new)
        _check_saved(adapter, tensor, there[own])
        derived.pop(own, None)
        there[own] = stored[own] = tensor
    for name, delta in adapter.deltas.items():
        own = _renamed(name, old, new)
        derived[own] = _low_rank(adapter, delta, there[own])
        stored.pop(own, None)
    notes = [f"'{old}' in the adapter is '{new}' in the model"] if old != new else []
    checkpoint = replace(
        model,
        tensors=dict(sorted(stored.items())),
        files=(*model.files, *adapter.contents.files),
        stamps={**model.stamps, **adapter.contents.stamps},
    )
    return Adapted(checkpoint, dict(sorted(derived.items())), tuple(notes))


def _prefix(tensors: Collection[str], adapter: Adapter) -> tuple[str, str]:
    """The first rule of `_PREFIXES` under which everything in the adapter is in the model."""
    wanted = [*adapter.deltas, *adapter.saved]
    for old, new in _PREFIXES:
        renamed = {_renamed(name, old, new) for name in wanted}
        if renamed.issubset(tensors) and len(renamed) == len(set(wanted)):
            return old, new
    raise _no_match(tensors, adapter, wanted)


def _renamed(name: str, old: str, new: str) -> str:
    return new + name.removeprefix(old) if name.startswith(old) else name


def _no_match(tensors: Collection[str], adapter: Adapter, wanted: list[str]) -> CheckpointError:
    lost = [name for name in wanted if name not in tensors]
    none = len(lost) == len(wanted)
    head = any("lm_head" in name or "embed_out" in name for name in lost)
    hint = "the adapter is for another model"
    if not none and head:
        hint = "the model has no output head of its own; merge the adapter with PEFT first"
    message = (
        f"'{adapter.path}': the adapter fits nothing in the model"
        if none
        else f"'{adapter.path}': the adapter changes what the model does not have: {some(lost)}"
    )
    return CheckpointError.of(message, hint=hint)


def _check_saved(adapter: Adapter, tensor: TensorInfo, own: TensorInfo | Scaled) -> None:
    if tensor.shape != own.shape:
        raise CheckpointError.of(
            f"'{adapter.path}': tensor '{tensor.name}' is {list(tensor.shape)}, but "
            f"{list(own.shape)} in the model",
            hint="where the vocabulary was resized, merge the adapter with PEFT first",
        )


def _low_rank(adapter: Adapter, delta: Delta, weight: TensorInfo | Scaled) -> LowRank:
    rows, columns = delta.b.shape[0], prod(delta.a.shape[1:])
    straight = weight.shape == (rows, *delta.a.shape[1:])
    across = weight.shape == (columns, rows)
    if delta.transposed is not None:
        straight = straight and not delta.transposed
        across = across and delta.transposed
    if not straight and not across:
        raise CheckpointError.of(
            f"'{adapter.path}': module '{delta.module}' changes {rows} x {columns}, but "
            f"'{weight.name}' of the model is {list(weight.shape)}",
            hint="the adapter is for another model",
        )
    for tensor in (weight, delta.a, delta.b):
        if not is_floating(tensor.dtype):
            raise CheckpointError.of(
                f"'{adapter.path}': tensor '{tensor.name}' is of {tensor.dtype}, which no LoRA has",
                hint="quantised models must be dequantised first",
            )
    transposed = across and (not straight or bool(delta.transposed) or delta.fallback)
    return LowRank(weight, delta.a, delta.b, delta.scale, transposed)
