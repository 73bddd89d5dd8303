"""How a checkpoint that is to be written is laid out: shards, headers, offsets, index.

Everything follows from names, dtypes, shapes and the size of a shard, so equal checkpoints have
equal bytes. Writes nothing. Reading headers is `header.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

from mergebuild.checkpoint.dtypes import DTYPES

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
STEM: Final = "model"
DIFFUSION_STEM: Final = "diffusion_pytorch_model"
"""How files of weights begin: as transformers looks for them, and as diffusers does."""

_ALIGNMENT: Final = 8


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One file. `header` are its first bytes, `size` all of them; `offsets` (absolute) and
    `sizes`, in bytes, are by tensor, in the order in which the tensors lie."""

    name: str
    header: bytes
    size: int
    offsets: Mapping[str, int]
    sizes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape) * DTYPES[self.dtype].size


def plan_shards(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], shard_size: int, stem: str = STEM
) -> tuple[ShardPlan, ...]:
    """The files of a checkpoint, from (name, dtype, shape) in any order; their names begin with
    `stem`.

    A shard takes tensors in the order of their names up to `shard_size` bytes of data; a tensor
    that is larger has a shard of its own. Without tensors there is one empty file.
    """
    listed = sorted((_Tensor(*tensor) for tensor in tensors), key=lambda tensor: tensor.name)
    groups = list(_groups(listed, shard_size))
    return tuple(
        _shard(_name(stem, number, len(groups)), group)
        for number, group in enumerate(groups, start=1)
    )


def single_shard(tensors: Iterable[tuple[str, str, tuple[int, ...]]], name: str) -> ShardPlan:
    """All tensors, as (name, dtype, shape) in any order, in one file of this name."""
    return _shard(name, (_Tensor(*tensor) for tensor in tensors))


def index_name(shards: Sequence[ShardPlan]) -> str:
    """What the index of several shards is called: `INDEX`, or as their names begin."""
    stem = shards[0].name.partition("-00001-of-")[0]
    return f"{stem}.safetensors.index.json"


def index_text(shards: Sequence[ShardPlan]) -> bytes:
    """The text of the index of a checkpoint of several shards."""
    files = {name: shard.name for shard in shards for name in shard.offsets}
    index = {
        "metadata": {"total_size": sum(sum(shard.sizes.values()) for shard in shards)},
        "weight_map": dict(sorted(files.items())),
    }
    return json.dumps(index, indent=2, ensure_ascii=False).encode() + b"\n"


def _groups(tensors: Sequence[_Tensor], limit: int) -> Iterator[list[_Tensor]]:
    group: list[_Tensor] = []
    filled = 0
    for tensor in tensors:
        if group and filled + tensor.size > limit:
            yield group
            group, filled = [], 0
        group.append(tensor)
        filled += tensor.size
    if group or not tensors:
        yield group


def _name(stem: str, number: int, count: int) -> str:
    return f"{stem}{'' if count == 1 else f'-{number:05}-of-{count:05}'}.safetensors"


def _shard(name: str, group: Iterable[_Tensor]) -> ShardPlan:
    # Larger items first, as the library has it: then each tensor starts at a multiple of its
    # item size, which whoever maps the file into memory relies on.
    ordered = sorted(group, key=lambda t: (-DTYPES[t.dtype].size, t.name))
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    relative: dict[str, int] = {}
    end = 0
    for tensor in ordered:
        relative[tensor.name] = end
        entries[tensor.name] = {
            "dtype": DTYPES[tensor.dtype].code,
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.size],
        }
        end += tensor.size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    return ShardPlan(
        name=name,
        header=header,
        size=len(header) + end,
        offsets={tensor: len(header) + offset for tensor, offset in relative.items()},
        sizes={tensor.name: tensor.size for tensor in ordered},
    )
