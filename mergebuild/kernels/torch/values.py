"""The values of `places`, of what is on the bench, and their keys."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor

from mergebuild.kernels.operations import row_length
from mergebuild.kernels.places import Balance, Importance, Spread, Value
from mergebuild.kernels.torch.bench import TorchBench
from mergebuild.kernels.torch.functions import exp, tanh


def derived(value: Value, bench: TorchBench) -> Tensor:
    """One float32 value for every place on the bench, in memory of its own."""
    deltas = bench.vectors("deltas")
    match value:
        case Spread():
            return spread(deltas)
        case Importance(divergences):
            length = row_length(bench.shape)
            first = bench.start // length
            kappa = torch.from_numpy(divergences[first:][: bench.count // length])
            return importance(kappa.to(bench.device), bench)
        case Balance():
            return balance(value, deltas).float()
        case _:
            assert_never(value)


def importance(kappa: Tensor, bench: TorchBench) -> Tensor:
    """From κ of the rows on the bench, in float64."""
    rows = bench.vectors("deltas")[0].view(len(kappa), -1)
    return (rows.abs() * kappa.float().unsqueeze(1)).view(-1)


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
    """float64, so that `Balanced` rounds once."""
    d = deltas[value.delta].double()
    total = deltas[0].double()
    for delta in deltas[1:]:
        total.add_(delta)
    width = value.high - value.low
    n = d.abs().sub_(value.low).mul_(1.0 / width) if width != 0.0 else d * 0.0
    return exp(n.mul_(n).mul_(len(deltas))).mul_(tanh(total.mul_(d)))


def keys_of(values: Tensor) -> Tensor:
    """Keys as int64 from 0 on: they order as the values do, NaN above all."""
    words = values.masked_fill(values.isnan(), torch.nan).view(torch.int32).long() & 0xFFFFFFFF
    return torch.where(words >= 2**31, words ^ 0xFFFFFFFF, words | 2**31)
