"""The maps of `operations`, each step one float32 operation, on what is on the bench."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

import torch
from torch import Tensor

from mergebuild.kernels.operations import (
    ColumnCombination,
    Combination,
    Identity,
    Map,
    Of,
    RowCombination,
    TaskVectors,
    column_count,
    row_length,
)
from mergebuild.kernels.torch.bench import TorchBench
from mergebuild.kernels.torch.masks import mask
from mergebuild.kernels.torch.sums import products, square


@singledispatch
def write(operation: Map, bench: TorchBench, result: Tensor) -> None:
    """Put the float32 values of the output into `result`."""
    raise NotImplementedError(f"no torch kernel for {type(operation).__name__}")


@write.register
def _(operation: Identity, bench: TorchBench, result: Tensor) -> None:
    result.copy_(bench.vectors("inputs")[operation.operand])


@write.register
def _(operation: Combination, bench: TorchBench, result: Tensor) -> None:
    _combine(operation.of, operation.coefficients, bench, result, result.shape)


@write.register
def _(operation: ColumnCombination, bench: TorchBench, result: Tensor) -> None:
    coefficients = torch.from_numpy(operation.coefficients).float().t().contiguous()
    coefficients = coefficients.to(bench.device)
    columns = column_count(bench.shape)
    _combine(operation.of, coefficients.unbind(0), bench, result, (-1, columns))


@write.register
def _(operation: RowCombination, bench: TorchBench, result: Tensor) -> None:
    length = row_length(bench.shape)
    rows = [vector.view(-1, length) for vector in bench.vectors(operation.of)]
    step = max(1, bench.tile // length)
    solved = []
    for start in range(0, len(rows[0]), step):
        sums = products([row[start : start + step] for row in rows], bench, axis=1)
        solved.append(operation.solve(square(sums, len(rows)).cpu().numpy()))
    coefficients = torch.cat([torch.from_numpy(one) for one in solved]).float().to(bench.device)
    _combine(operation.of, coefficients.unsqueeze(-1).unbind(1), bench, result, (-1, length))


@write.register
def _(operation: TaskVectors, bench: TorchBench, result: Tensor) -> None:
    deltas = bench.vectors("deltas")
    for delta, sparse in zip(deltas, operation.deltas, strict=True):  # d becomes δ in place
        if sparse.mask is not None:
            delta.mul_(mask(sparse.mask, delta, bench))
        if sparse.factor != 1.0:
            delta.mul_(sparse.factor)
        if sparse.weight != 1.0:
            delta.mul_(sparse.weight)
    add_up(deltas, result)
    if operation.elect:
        _elect(operation, deltas, bench, result)
    elif operation.divisor != "elected" and operation.divisor != 1.0:
        result.div_(result.new_full((), operation.divisor))  # a number would be 1/divisor on CUDA
    if operation.scale != 1.0:
        result.mul_(operation.scale)
    result.add_(bench.vectors("inputs")[0])


def _elect(
    operation: TaskVectors, deltas: Sequence[Tensor], bench: TorchBench, result: Tensor
) -> None:
    """From Σδ in `result`, the sum of the δ that have its sign, divided if asked for."""
    sign = torch.ge(result, 0, out=bench.scratch(-2, torch.float32)).mul_(2).sub_(1)
    divided = operation.divisor == "elected"
    weights = bench.scratch(-3, torch.float32).zero_() if divided else None
    agrees = bench.scratch(-1, torch.float32)
    for delta, sparse in zip(deltas, operation.deltas, strict=True):
        torch.mul(delta, sign, out=agrees).gt_(0)
        delta.mul_(agrees)
        if weights is not None:
            weights.add_(agrees.mul_(sparse.weight))
    add_up(deltas, result)
    if weights is not None:
        result.div_(weights.add_(torch.eq(weights, 0, out=agrees)))


def add_up(vectors: Sequence[Tensor], result: Tensor) -> None:
    """The sum in order."""
    result.copy_(vectors[0])
    for vector in vectors[1:]:
        result.add_(vector)


def _combine(
    of: Of,
    coefficients: Sequence[Tensor] | Sequence[float],
    bench: TorchBench,
    result: Tensor,
    shape: Sequence[int],
) -> None:
    """Σ c_i·v_i in order, plus the base for deltas; c_i broadcast against v_i in `shape`."""
    total = result.view(shape)
    vectors = [vector.view(shape) for vector in bench.vectors(of)]
    product = bench.scratch(-1, torch.float32).view(shape)
    for place, (vector, coefficient) in enumerate(zip(vectors, coefficients, strict=True)):
        if place == 0:
            torch.mul(vector, coefficient, out=total)  # type: ignore[arg-type]
        else:
            total.add_(torch.mul(vector, coefficient, out=product))  # type: ignore[arg-type]
    if of == "deltas":
        result.add_(bench.vectors("inputs")[0])
