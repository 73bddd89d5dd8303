"""The statistics of `brackets`, gathered from what is put on the bench."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mergebuild.kernels.brackets import (
    Bracket,
    Bracketed,
    MagnitudeBrackets,
    MagnitudeKeys,
    ValueBrackets,
    ValueKeys,
)
from mergebuild.kernels.interface import Gathering
from mergebuild.kernels.selection import Keys
from mergebuild.kernels.torch.bench import TorchBench
from mergebuild.kernels.torch.statistics import gather
from mergebuild.kernels.torch.values import derived, keys_of


@gather.register
def _(statistic: MagnitudeKeys, bench: TorchBench) -> Gathering:
    return GatherKeys(statistic, bench)


@gather.register
def _(statistic: MagnitudeBrackets, bench: TorchBench) -> Gathering:
    return GatherBrackets(statistic, bench)


@gather.register
def _(statistic: ValueKeys, bench: TorchBench) -> Gathering:
    return GatherKeys(statistic, bench)


@gather.register
def _(statistic: ValueBrackets, bench: TorchBench) -> Gathering:
    return GatherBrackets(statistic, bench)


class GatherKeys:
    def __init__(self, statistic: MagnitudeKeys | ValueKeys, bench: TorchBench) -> None:
        self._statistic, self._bench = statistic, bench
        self._found: list[list[Tensor]] = []

    def add(self) -> None:
        self._found.append([keys.cpu() for keys in ordering(self._statistic, self._bench)])

    def value(self) -> list[Keys]:
        return [as_keys(found) for found in zip(*self._found, strict=True)]


class GatherBrackets:
    def __init__(self, statistic: MagnitudeBrackets | ValueBrackets, bench: TorchBench) -> None:
        self._statistic, self._bench = statistic, bench
        self._found = [[Found(one, bench) for one in some] for some in statistic.brackets]

    def add(self) -> None:
        asked = zip(self._found, ordering(self._statistic, self._bench), strict=True)
        for some, keys in asked:
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


def ordering(
    statistic: MagnitudeKeys | MagnitudeBrackets | ValueKeys | ValueBrackets, bench: TorchBench
) -> Iterator[Tensor]:
    """The keys of what is on the bench, one after the other: int32 of 31 bits, or int64."""
    if isinstance(statistic, ValueKeys | ValueBrackets):
        for value in statistic.values:
            yield keys_of(derived(value, bench))
    else:
        for delta in statistic.deltas:
            yield bench.vectors("deltas")[delta].view(torch.int32) & 0x7FFFFFFF


def as_keys(found: Sequence[Tensor]) -> Keys:
    return np.asarray(torch.cat(list(found)).numpy()).astype(np.uint32)
