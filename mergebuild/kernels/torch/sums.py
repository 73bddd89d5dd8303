"""Sums in the one order that `operations` defines, and inner products of vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mergebuild.kernels.operations import BLOCK
from mergebuild.kernels.torch.bench import TorchBench


def fold(values: Tensor) -> Tensor:
    """Sum over the first axis in halves, as if it were padded with zeros to a power of two.

    Overwrites `values`.
    """
    length = values.shape[0]
    while length > 1:
        half = 1 << (length - 1).bit_length() - 1
        values[: length - half].add_(values[half:length])
        length = half
    return values[0]


def block_sums(values: Tensor) -> Tensor:
    """The sum of each block of a vector. Overwrites `values`."""
    whole = len(values) // BLOCK * BLOCK
    found = [fold(values[:whole].view(-1, BLOCK).t())] if whole else []
    if whole < len(values):
        found.append(fold(values[whole:]).unsqueeze(0))
    return torch.cat(found)


def in_order(sums: Tensor) -> Tensor:
    """Sums over the last axis, one after the other, on the CPU."""
    with np.errstate(all="ignore"):  # what is not finite is reported elsewhere
        total = np.add.accumulate(sums.cpu().numpy(), axis=-1)[..., -1]
    return torch.from_numpy(np.asarray(total))


def pairs(count: int) -> list[tuple[int, int]]:
    """The places of the upper triangle of a square matrix."""
    return [(i, j) for i in range(count) for j in range(i, count)]


def block_products(vectors: Sequence[Tensor], bench: TorchBench) -> Tensor:
    """float64 sums by block of the products of all pairs: (pairs, blocks)."""
    doubles = [_double(vector, bench, slot) for slot, vector in enumerate(vectors)]
    room = _double(vectors[0], bench, -1)
    return torch.stack(
        [block_sums(torch.mul(doubles[i], doubles[j], out=room)) for i, j in pairs(len(doubles))]
    )


def products(vectors: Sequence[Tensor], bench: TorchBench, axis: int = 0) -> Tensor:
    """float64 sums over an axis of the products of all pairs, stacked in the order of `pairs`."""
    doubles = [_double(vector, bench, slot) for slot, vector in enumerate(vectors)]
    room = _double(vectors[0], bench, -1)
    return torch.stack(
        [
            fold(torch.mul(doubles[i], doubles[j], out=room).movedim(axis, 0)).clone()
            for i, j in pairs(len(doubles))
        ]
    )


def _double(vector: Tensor, bench: TorchBench, slot: int) -> Tensor:
    room = bench.scratch(slot, torch.float64)[: vector.numel()]
    return room.view(vector.shape).copy_(vector)


def square(upper: Tensor, count: int) -> Tensor:
    """Symmetric matrices (…, count, count) from their upper triangles, stacked on axis 0."""
    full = upper.new_empty((*upper.shape[1:], count, count))
    for place, (i, j) in enumerate(pairs(count)):
        full[..., i, j] = upper[place]
        full[..., j, i] = upper[place]
    return full
