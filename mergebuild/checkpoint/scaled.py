"""Weights of eight-bit floats with scales, as the weights that they stand for.

    W'[i, j] = W[i, j] · S[i // b, j // c]

    W  float8        the codes        S  a scale for each block of b x c elements

Which tensors are codes, which are scales and which are gone with them is decided by dtypes, names
and shapes; nothing is read or computed. A scale for the whole tensor, for each row or for each
column is a block of that size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Final

from mergebuild.checkpoint.dtypes import is_float8, is_floating
from mergebuild.checkpoint.header import TensorInfo
from mergebuild.checkpoint.quantisation import (
    Quantisation,
    quantisation,
    refuse_quantised,
    without_quantisation,
)
from mergebuild.checkpoint.source import Checkpoint
from mergebuild.digest import FieldValue, fields_digest
from mergebuild.errors import CheckpointError

VERSION: Final = 1
"""Part of every key of a scaled tensor: to be raised when its values change.

1: W and S as float32, their product rounded once to float32.
"""
DTYPE: Final = "float32"
COUNTS_AS: Final = "bfloat16"
"""What models are trained in that are then stored as fp8."""

_SCALES: Final = ("_scale_inv", "_scale")
_POWERS: Final = "float8_e8m0fnu"
_OF_ACTIVATIONS: Final = frozenset({
    "input_scale", "output_scale", "activation_scale", "input_scale_ub",
    "q_scale", "k_scale", "v_scale", "prob_output_scale", "prob_scale",
})  # fmt: skip
"""Last parts of the names of scales of activations and of the KV cache: a number each."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """A tensor that is `weight` times `scale`, in float32, of the weight's shape.

    `blocks` are the sizes of a block with one scale, a number for each dimension of the weight.
    Without a scale it is the weight as it is.
    """

    weight: TensorInfo
    scale: TensorInfo | None
    blocks: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.weight.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    @property
    def dtype(self) -> str:
        return DTYPE

    @property
    def counts_as(self) -> str:
        return COUNTS_AS

    def key(self, keys: Mapping[TensorInfo, str]) -> str:
        """Its tensor key, from those of what it is made of."""
        fields: list[tuple[str, FieldValue]] = [
            ("operation", "scaled"),
            ("version", VERSION),
            ("weight", keys[self.weight]),
        ]
        if self.scale is not None:
            fields += [("scale", keys[self.scale]), ("blocks", self.blocks)]
        return fields_digest("derived", fields)


@dataclass(frozen=True, slots=True)
class Dequantised:
    """A checkpoint without the tensors that stand for others, those others, and what the user
    should know."""

    checkpoint: Checkpoint
    derived: Mapping[str, Scaled]
    notes: tuple[str, ...]


def dequantise(checkpoint: Checkpoint) -> Dequantised:
    """The checkpoint as if its weights were no codes.

    Raises CheckpointError for codes whose scales are missing or do not fit.
    """
    said = quantisation(checkpoint.config, checkpoint.path)
    codes = [t for t in checkpoint.tensors.values() if is_float8(t.dtype) and t.dtype != _POWERS]
    if said is None and not codes:
        _refuse_powers(checkpoint, checkpoint.tensors)
        return Dequantised(checkpoint, {}, ())
    kept = dict(checkpoint.tensors)
    derived: dict[str, Scaled] = {}
    for weight in codes:
        derived[weight.name] = scaled = _scaled(checkpoint, weight, said)
        del kept[weight.name]
        if scaled.scale is not None:
            kept.pop(scaled.scale.name, None)
    dropped = [name for name in kept if _of_activations(kept[name])]
    for name in dropped:
        del kept[name]
    _refuse_powers(checkpoint, kept)
    config = checkpoint.config
    plain = replace(
        checkpoint,
        tensors=kept,
        config=without_quantisation(config) if config is not None else None,
    )
    return Dequantised(plain, derived, tuple(_notes(derived, dropped)))


def _scaled(checkpoint: Checkpoint, weight: TensorInfo, said: Quantisation | None) -> Scaled:
    names = [weight.name + suffix for suffix in _SCALES]
    scale = next((checkpoint.tensors[n] for n in names if n in checkpoint.tensors), None)
    zeros = next((z for z in (f"{weight.name}_zero_point",) if z in checkpoint.tensors), None)
    if zeros is not None:
        raise refuse_quantised(checkpoint.path, f"fp8 with zero points, by tensor '{zeros}'")
    if scale is None:
        if _says_float8(checkpoint.config):
            return Scaled(weight, None, ())
        raise CheckpointError.of(
            f"'{checkpoint.path}': tensor '{weight.name}' is {weight.dtype} without scales",
            hint=f"its scales would be called '{names[0]}' or '{names[1]}'; where the codes are "
            f'the values, a config.json with "dtype": "{weight.dtype}" says so',
        )
    if not is_floating(scale.dtype):
        raise CheckpointError.of(
            f"'{checkpoint.path}': tensor '{scale.name}' is of {scale.dtype}: scales are floats"
        )
    blocks = _blocks(weight.shape, scale.shape, said.blocks if said is not None else ())
    if blocks is None:
        told = "; ".join(" x ".join(map(str, b)) for b in said.blocks) if said is not None else ""
        raise CheckpointError.of(
            f"'{checkpoint.path}': '{scale.name}' {list(scale.shape)} does not fit "
            f"'{weight.name}' {list(weight.shape)}",
            hint=f"the config says blocks of {told}"
            if told
            else "the config says no size of blocks (weight_block_size)",
        )
    return Scaled(weight, scale, blocks)


def _blocks(
    shape: tuple[int, ...], scales: tuple[int, ...], sizes: tuple[tuple[int, ...], ...]
) -> tuple[int, ...] | None:
    """The sizes of a block, a number for each dimension; None where scales do not fit."""
    if prod(scales) == 1:
        return tuple(max(1, length) for length in shape)
    if len(scales) == 1 and len(shape) == 2 and scales[0] == shape[0]:
        scales = (*scales, 1)
    if len(scales) != len(shape):
        return None
    plain = _grid(shape, scales, (1,) * len(shape))
    if plain is not None:
        return plain
    fitting = dict.fromkeys(
        grid for size in sizes if len(size) <= len(shape) and (grid := _grid(shape, scales, size))
    )
    return next(iter(fitting)) if len(fitting) == 1 else None


def _grid(
    shape: tuple[int, ...], scales: tuple[int, ...], size: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Blocks of `size` in the last dimensions, but whole dimensions where there is one scale."""
    sizes = (1,) * (len(shape) - len(size)) + size
    blocks = tuple(
        max(1, length) if count == 1 else block
        for length, count, block in zip(shape, scales, sizes, strict=True)
    )
    counts = tuple(-(-length // block) for length, block in zip(shape, blocks, strict=True))
    return blocks if counts == scales else None


def _of_activations(tensor: TensorInfo) -> bool:
    last = tensor.name.rpartition(".")[2]
    return last in _OF_ACTIVATIONS and prod(tensor.shape) == 1


def _says_float8(config: Mapping[str, Any] | None) -> bool:
    said = (config or {}).get("dtype", (config or {}).get("torch_dtype"))
    return isinstance(said, str) and is_float8(said.removeprefix("torch."))


def _refuse_powers(checkpoint: Checkpoint, tensors: Mapping[str, TensorInfo]) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype == _POWERS:
            raise refuse_quantised(checkpoint.path, f"scales without weights, by tensor '{name}'")


def _notes(derived: Mapping[str, Scaled], dropped: list[str]) -> Iterator[str]:
    if derived:
        yield f"{len(derived)} fp8 tensors are read times their scales, in {DTYPE}"
    if dropped:
        yield f"{len(dropped)} scales of activations are left out ('{dropped[0]}')"
