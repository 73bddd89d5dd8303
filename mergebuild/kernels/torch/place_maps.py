"""The maps of `places`, on what is on the bench."""

from __future__ import annotations

import torch
from torch import Tensor

from mergebuild.kernels.operations import Combination
from mergebuild.kernels.places import (
    Average,
    Balanced,
    Consensus,
    Important,
    Overlap,
    Toward,
    Votes,
    WholeTensors,
)
from mergebuild.kernels.torch.bench import TorchBench
from mergebuild.kernels.torch.maps import add_up, write
from mergebuild.kernels.torch.values import balance, derived, spread


@write.register
def _(operation: Average, bench: TorchBench, result: Tensor) -> None:
    write(Combination("inputs", operation.weights), bench, result)
    result.div_(result.new_full((), operation.divisor))


@write.register
def _(operation: Toward, bench: TorchBench, result: Tensor) -> None:
    b, x = bench.vectors("inputs")[:2]
    (d,) = bench.vectors("deltas")
    size = d.abs().clamp_(min=operation.floor)
    omega = torch.div(size.new_full((), operation.step), size, out=size).clamp_(0.0, 1.0)
    torch.mul(omega, d, out=result).add_(b)
    torch.where(omega == 1.0, x, result, out=result)


@write.register
def _(operation: Overlap, bench: TorchBench, result: Tensor) -> None:
    deltas = bench.vectors("deltas")
    count = torch.zeros_like(result)
    factor = torch.zeros_like(result)
    for delta, own in zip(deltas, operation.factors, strict=True):
        beyond = delta.abs().gt_(operation.threshold)
        count.add_(beyond)
        delta.mul_(beyond)
        factor.add_(beyond.mul_(own))
    add_up(deltas, result)
    alone = count == 1.0
    result.mul_(torch.where(alone, factor, 1.0))
    result.div_(count.clamp_(min=1.0)).add_(bench.vectors("inputs")[0])


@write.register
def _(operation: Votes, bench: TorchBench, result: Tensor) -> None:
    deltas = bench.vectors("deltas")
    if operation.least is not None:
        kept = spread(deltas).ge_(operation.least)
        for delta in deltas:
            delta.mul_(kept)
    add_up(deltas, result)
    sign = torch.ge(result, 0.0).float().mul_(2).sub_(1)
    weights = torch.zeros_like(result)
    for delta, weight in zip(deltas, operation.weights, strict=True):
        agrees = (delta * sign).gt_(0)
        delta.mul_(agrees)
        delta.mul_(weight)
        weights.add_(agrees.mul_(weight))
    add_up(deltas, result)
    result.div_(weights.clamp_(min=operation.floor)).add_(bench.vectors("inputs")[0])


@write.register
def _(operation: Important, bench: TorchBench, result: Tensor) -> None:
    kept = derived(operation.importance, bench).ge_(operation.threshold)
    torch.mul(bench.vectors("deltas")[0], kept, out=result).add_(bench.vectors("inputs")[0])


@write.register
def _(operation: Consensus, bench: TorchBench, result: Tensor) -> None:
    deltas = bench.vectors("deltas")
    add_up(deltas, result)
    count = torch.zeros_like(result)
    for delta, bound in zip(deltas, operation.bounds, strict=True):
        others = torch.sub(result, delta).abs_().mul_(bound)
        count.add_(torch.gt(delta.abs(), others))
    result.mul_(count.ge_(operation.least))
    if operation.scale != 1.0:
        result.mul_(operation.scale)
    result.add_(bench.vectors("inputs")[0])


@write.register
def _(operation: Balanced, bench: TorchBench, result: Tensor) -> None:
    deltas = bench.vectors("deltas")
    merged = torch.zeros_like(deltas[0], dtype=torch.float64)
    weights = torch.zeros_like(merged)
    for value, (low, high) in zip(operation.values, operation.bounds, strict=True):
        beta = balance(value, deltas)
        if high != low:
            beta.sub_(low).mul_(1.0 / (high - low)).clamp_(0.0, 1.0)
        else:
            beta = beta.float().ge_(high).mul_(high > 0.0).double() + beta * 0.0
        weights.add_(beta)
        merged.add_(beta.mul_(deltas[value.delta]))
    merged.div_(weights.add_(weights == 0.0)).mul_(operation.scale)
    result.copy_(merged).add_(bench.vectors("inputs")[0])


@write.register
def _(operation: WholeTensors, bench: TorchBench, result: Tensor) -> None:
    operands = [vector.view(bench.shape) for vector in bench.vectors("inputs")]
    try:
        made = operation.function(operands)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception:
        if all(bool(vector.isfinite().all()) for vector in bench.vectors("inputs")):
            raise
        result.fill_(torch.nan)  # the engine says what was wrong with the operands
        return
    result.copy_(made.reshape(-1))
