"""The statistics of `brackets`, gathered from what is put on the bench."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mergebuild.kernels.brackets import (
    Bracket,
    Bracketed,
    MagnitudeBrackets,
    MagnitudeKeys,
)
from mergebuild.kernels.interface import Gathering
from mergebuild.kernels.selection import Keys
from mergebuild.kernels.torch.bench import TorchBench
from mergebuild.kernels.torch.statistics import gather


@gather.register
def _(statistic: MagnitudeKeys, bench: TorchBench) -> Gathering:
    return GatherMagnitudeKeys(statistic, bench)


@gather.register
def _(statistic: MagnitudeBrackets, bench: TorchBench) -> Gathering:
    return GatherMagnitudeBrackets(statistic, bench)


class GatherMagnitudeKeys:
    def __init__(self, statistic: MagnitudeKeys, bench: TorchBench) -> None:
        self._statistic, self._bench = statistic, bench
        self._found: list[list[Tensor]] = [[] for _ in statistic.deltas]

    def add(self) -> None:
        deltas = self._bench.vectors("deltas")
        for found, delta in zip(self._found, self._statistic.deltas, strict=True):
            found.append(magnitudes(deltas[delta]).cpu())

    def value(self) -> list[Keys]:
        return [as_keys(found) for found in self._found]


class GatherMagnitudeBrackets:
    def __init__(self, statistic: MagnitudeBrackets, bench: TorchBench) -> None:
        self._statistic, self._bench = statistic, bench
        self._found = [[Found(one, bench) for one in some] for some in statistic.brackets]

    def add(self) -> None:
        deltas = self._bench.vectors("deltas")
        for some, delta in zip(self._found, self._statistic.deltas, strict=True):
            keys = magnitudes(deltas[delta])
            for one in some:
                one.add(keys)

    def value(self) -> list[list[Bracketed]]:
        return [[one.value() for one in some] for some in self._found]


class Found:
    """What was found with one bracket."""

    def __init__(self, bracket: Bracket, bench: TorchBench) -> None:
        self._bracket = bracket
        self._counts = torch.zeros(3, dtype=torch.int64, device=bench.device)
        self._kept = 0
        self._between: list[Tensor] = []

    def add(self, keys: Tensor) -> None:
        """Take in keys, as numbers with a sign that none of them needs."""
        low, high, room = self._bracket.low, self._bracket.high, self._bracket.room
        masks = torch.stack([keys < low, keys == low, keys == high])
        self._counts += torch.count_nonzero(masks, 1)
        if self._kept <= room:
            between = keys[(keys > low) & (keys < high)].cpu()
            self._kept += len(between)
            self._between.append(between)

    def value(self) -> Bracketed:
        below, low, high = self._counts.cpu().tolist()
        between = as_keys(self._between) if self._kept <= self._bracket.room else None
        return Bracketed(below, low, high, between)


def magnitudes(values: Tensor) -> Tensor:
    """The 31 bits of |x|, int32."""
    return values.view(torch.int32) & 0x7FFFFFFF


def as_keys(found: list[Tensor]) -> Keys:
    return np.asarray(torch.cat(found).numpy()).astype(np.uint32)
