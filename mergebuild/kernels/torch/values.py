"""The values of `places`, of what is on the bench, and their keys."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor

from mergebuild.kernels.operations import row_length
from mergebuild.kernels.places import Balance, Importance, Spread, Value
from mergebuild.kernels.torch.bench import TorchBench


def derived(value: Value, bench: TorchBench) -> Tensor:
    """One float32 value for every place on the bench, in memory of its own, which is that of the
    CPU if it is computed there."""
    deltas = bench.vectors("deltas")
    match value:
        case Spread():
            return spread(deltas)
        case Importance(divergences):
            length = row_length(bench.shape)
            first = bench.start // length
            return importance(torch.from_numpy(divergences[first:][: bench.count // length]), bench)
        case Balance():
            return balance(value, deltas).float()
        case _:
            assert_never(value)


def importance(kappa: Tensor, bench: TorchBench) -> Tensor:
    """From κ of the rows on the bench, in float64 and on the CPU."""
    rows = bench.vectors("deltas")[0].view(len(kappa), -1)
    return (rows.abs() * kappa.float().to(rows.device).unsqueeze(1)).view(-1)


def spread(deltas: list[Tensor]) -> Tensor:
    """Mean, then mean square of what differs from it, in float64."""
    total = deltas[0].double()
    for delta in deltas[1:]:
        total.add_(delta)
    mean = total.div_(total.new_full((), len(deltas)))
    variance = torch.zeros_like(mean)
    for delta in deltas:
        off = delta - mean
        variance.add_(off.mul_(off))
    return variance.div_(variance.new_full((), len(deltas))).float()


def balance(value: Balance, deltas: list[Tensor]) -> Tensor:
    """float64, so that `Balanced` rounds once; on the CPU, as exp and tanh differ by device."""
    deltas = [delta.cpu() for delta in deltas]
    d = deltas[value.delta].double()
    total = deltas[0].double()
    for delta in deltas[1:]:
        total.add_(delta)
    width = value.high - value.low
    size = d.abs().sub_(value.low).div_(d.new_full((), width)) if width != 0.0 else d * 0.0
    return size.mul_(size).mul_(len(deltas)).exp_().mul_(total.mul_(d).tanh_())


def keys_of(values: Tensor) -> Tensor:
    """Keys as int64 from 0 on: they order as the values do, NaN above all."""
    words = values.masked_fill(values.isnan(), torch.nan).view(torch.int32).long() & 0xFFFFFFFF
    return torch.where(words >= 2**31, words ^ 0xFFFFFFFF, words | 2**31)
