"""The statistics of `places`, gathered from what is put on the bench."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mergebuild.kernels.functions import EXP_NEAR
from mergebuild.kernels.interface import Gathering
from mergebuild.kernels.operations import row_length
from mergebuild.kernels.places import (
    FLOOR,
    Extremes,
    ImportanceHighCounts,
    OverlapCounts,
    SelectedSquares,
    ValueHighCounts,
    ValueLowCounts,
)
from mergebuild.kernels.torch.bench import TorchBench
from mergebuild.kernels.torch.functions import exp, log_quotient
from mergebuild.kernels.torch.statistics import gather, parts
from mergebuild.kernels.torch.sums import block_sums, fold, in_order
from mergebuild.kernels.torch.values import derived, importance, keys_of, spread

SIZE = 2**16

Counts: TypeAlias = NDArray[np.int64]


@gather.register
def _(statistic: ValueHighCounts, bench: TorchBench) -> Gathering:
    return GatherValueHighCounts(statistic, bench)


@gather.register
def _(statistic: ValueLowCounts, bench: TorchBench) -> Gathering:
    return GatherValueLowCounts(statistic, bench)


@gather.register
def _(statistic: ImportanceHighCounts, bench: TorchBench) -> Gathering:
    return GatherImportanceHighCounts(bench)


@gather.register
def _(statistic: SelectedSquares, bench: TorchBench) -> Gathering:
    return GatherSelectedSquares(statistic, bench)


@gather.register
def _(statistic: Extremes, bench: TorchBench) -> Gathering:
    return GatherExtremes(bench)


@gather.register
def _(statistic: OverlapCounts, bench: TorchBench) -> Gathering:
    return GatherOverlapCounts(statistic, bench)


class Histogram:
    """Counts by the 16 bits of a half key."""

    def __init__(self, bench: TorchBench) -> None:
        self._counts = torch.zeros(SIZE, dtype=torch.int64, device=bench.device)

    def add(self, keys: Tensor) -> None:
        """Take in half keys."""
        self._counts += torch.bincount(keys, minlength=SIZE)

    def value(self) -> Counts:
        return np.asarray(self._counts.cpu().numpy())


class GatherValueHighCounts:
    def __init__(self, statistic: ValueHighCounts, bench: TorchBench) -> None:
        self._statistic, self._bench = statistic, bench
        self._found = [Histogram(bench) for _ in statistic.values]

    def add(self) -> None:
        for found, kind in zip(self._found, self._statistic.values, strict=True):
            found.add(keys_of(derived(kind, self._bench)) >> 16)

    def value(self) -> list[Counts]:
        return [one.value() for one in self._found]


class GatherValueLowCounts:
    def __init__(self, statistic: ValueLowCounts, bench: TorchBench) -> None:
        self._statistic, self._bench = statistic, bench
        self._found = [
            {bucket: Histogram(bench) for bucket in buckets} for buckets in statistic.buckets
        ]

    def add(self) -> None:
        for found, kind in zip(self._found, self._statistic.values, strict=True):
            keys = keys_of(derived(kind, self._bench))
            for bucket, inside in found.items():
                inside.add(keys[keys >> 16 == bucket] & 0xFFFF)

    def value(self) -> list[dict[int, Counts]]:
        return [{bucket: one.value() for bucket, one in found.items()} for found in self._found]


class GatherImportanceHighCounts:
    def __init__(self, bench: TorchBench) -> None:
        self._bench = bench
        self._found: list[Tensor] = []
        self._counts = Histogram(bench)

    def add(self) -> None:
        bench = self._bench
        length = row_length(bench.shape)
        b, x = (v.view(-1, length) for v in bench.vectors("inputs")[:2])
        some = parts(len(b), max(1, bench.tile // length))
        kappa = torch.cat([divergences(x[part].double(), b[part].double()) for part in some])
        self._found.append(kappa)
        self._counts.add(keys_of(importance(kappa, bench)) >> 16)

    def value(self) -> tuple[NDArray[np.float64], Counts]:
        return np.asarray(torch.cat(self._found).cpu().numpy()), self._counts.value()


def divergences(x: Tensor, b: Tensor) -> Tensor:
    """κ of each row."""
    p, q = softmax(x), softmax(b)
    return fold(log_quotient(p, q).mul_(p).t()).clone()


def softmax(rows: Tensor) -> Tensor:
    """Of each row, with FLOOR added."""
    top = rows.amax(1, keepdim=True)
    near = rows.abs().amax(1, keepdim=True) <= EXP_NEAR
    grown = exp(rows - top.masked_fill_(near, 0.0))
    total = fold(grown.clone().t()).unsqueeze(1)
    return grown.mul_(torch.ones_like(total).div_(total)).add_(FLOOR)


class GatherSelectedSquares:
    def __init__(self, statistic: SelectedSquares, bench: TorchBench) -> None:
        self._least, self._bench = statistic.least, bench
        self._sums: list[Tensor] = []

    def add(self) -> None:
        deltas = self._bench.vectors("deltas")
        mask = spread(deltas).ge_(self._least)
        squares = [block_sums((delta * mask).double().square_()) for delta in deltas]
        self._sums.append(torch.stack(squares))

    def value(self) -> tuple[float, ...]:
        return tuple(in_order(torch.cat(self._sums, 1)).tolist())


class GatherExtremes:
    def __init__(self, bench: TorchBench) -> None:
        self._bench = bench
        self._found: list[Tensor] = []

    def add(self) -> None:
        pairs = [torch.stack(torch.aminmax(d.abs())) for d in self._bench.vectors("deltas")]
        self._found.append(torch.stack(pairs))

    def value(self) -> list[tuple[float, float]]:
        found = torch.stack(self._found).cpu()
        low, high = found[..., 0].amin(0), found[..., 1].amax(0)
        return list(zip(low.tolist(), high.tolist(), strict=True))


class GatherOverlapCounts:
    def __init__(self, statistic: OverlapCounts, bench: TorchBench) -> None:
        self._threshold, self._bench = statistic.threshold, bench
        self._counts: Tensor | None = None

    def add(self) -> None:
        deltas = self._bench.vectors("deltas")
        beyond = torch.stack([d.abs().gt_(self._threshold) for d in deltas])
        alone = beyond * (beyond.sum(0) == 1)
        found = torch.stack([torch.count_nonzero(one, 1) for one in (beyond, alone)])
        self._counts = found if self._counts is None else self._counts.add_(found)

    def value(self) -> list[tuple[int, int]]:
        assert self._counts is not None, "value before add"
        return [(there - alone, alone) for there, alone in self._counts.t().cpu().tolist()]
