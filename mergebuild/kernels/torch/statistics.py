"""The statistics of `operations`, gathered from what is put on the bench."""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mergebuild.kernels.interface import Gathering
from mergebuild.kernels.operations import (
    BLOCK,
    AbsoluteSums,
    Gram,
    HighCounts,
    LowCounts,
    RankedRandom,
    Statistic,
    column_count,
    row_length,
)
from mergebuild.kernels.torch.bench import TorchBench
from mergebuild.kernels.torch.masks import mask
from mergebuild.kernels.torch.sums import (
    block_products,
    block_sums,
    fold,
    in_order,
    products,
    square,
)

HIGH, LOW = 2**15, 2**16


@singledispatch
def gather(statistic: Statistic, bench: TorchBench) -> Gathering:
    """Start gathering a statistic."""
    raise NotImplementedError(f"no torch kernel for {type(statistic).__name__}")


@gather.register
def _(statistic: Gram, bench: TorchBench) -> Gathering:
    kind = GatherGram if statistic.per == "tensor" else GatherColumnGram
    return kind(statistic, bench)


@gather.register
def _(statistic: HighCounts, bench: TorchBench) -> Gathering:
    return GatherHighCounts(statistic, bench)


@gather.register
def _(statistic: LowCounts, bench: TorchBench) -> Gathering:
    return GatherLowCounts(statistic, bench)


@gather.register
def _(statistic: AbsoluteSums, bench: TorchBench) -> Gathering:
    return GatherAbsoluteSums(statistic, bench)


class GatherGram:
    def __init__(self, statistic: Gram, bench: TorchBench) -> None:
        self._of, self._bench = statistic.of, bench
        self._count = 0
        self._sums: list[Tensor] = []

    def add(self) -> None:
        vectors = self._bench.vectors(self._of)
        self._count = len(vectors)
        for part in parts(self._bench.count, self._bench.tile):
            self._sums.append(block_products([vector[part] for vector in vectors], self._bench))

    def value(self) -> tuple[tuple[float, ...], ...]:
        sums = in_order(torch.cat(self._sums, 1))
        return tuple(map(tuple, square(sums, self._count).tolist()))


class GatherColumnGram:
    def __init__(self, statistic: Gram, bench: TorchBench) -> None:
        self._of, self._bench = statistic.of, bench
        self._columns = column_count(bench.shape)
        self._count = 0
        self._sums: Tensor | None = None

    def add(self) -> None:
        vectors = [v.view(-1, self._columns) for v in self._bench.vectors(self._of)]
        self._count = len(vectors)
        step = max(1, BLOCK // self._columns)
        for start in range(0, len(vectors[0]), step):
            sums = products([v[start : start + step] for v in vectors], self._bench)
            self._sums = sums if self._sums is None else self._sums.add_(sums)

    def value(self) -> NDArray[np.float64]:
        assert self._sums is not None, "value before add"
        return np.asarray(square(self._sums, self._count).cpu().numpy())


class GatherHighCounts:
    def __init__(self, statistic: HighCounts, bench: TorchBench) -> None:
        self._statistic, self._bench = statistic, bench
        shape = (len(statistic.deltas), 2, HIGH)
        self._counts = torch.zeros(shape, dtype=torch.int64, device=bench.device)

    def add(self) -> None:
        deltas = self._bench.vectors("deltas")
        for (counts, sums), delta in zip(self._counts, self._statistic.deltas, strict=True):
            keys, high = _keys(deltas[delta], self._bench)
            counts += torch.bincount(high, minlength=HIGH)
            if self._statistic.sums:  # exact: below 2**53 for any tensor that fits on a disk
                low = (keys & 0xFFFF).double()
                sums += torch.bincount(high, low, minlength=HIGH).long()

    def value(self) -> list[NDArray[np.int64]]:
        return [np.asarray(one) for one in self._counts.cpu().numpy()]


class GatherLowCounts:
    def __init__(self, statistic: LowCounts, bench: TorchBench) -> None:
        self._statistic, self._bench = statistic, bench
        self._counts = [
            {b: torch.zeros(LOW, dtype=torch.int64, device=bench.device) for b in buckets}
            for buckets in statistic.buckets
        ]

    def add(self) -> None:
        deltas = self._bench.vectors("deltas")
        for counts, delta in zip(self._counts, self._statistic.deltas, strict=True):
            keys, high = _keys(deltas[delta], self._bench)
            for bucket, inside in counts.items():
                inside += torch.bincount(keys[high == bucket] & 0xFFFF, minlength=LOW)

    def value(self) -> list[dict[int, Any]]:
        return [
            {bucket: inside.cpu().numpy() for bucket, inside in counts.items()}
            for counts in self._counts
        ]


class GatherAbsoluteSums:
    def __init__(self, statistic: AbsoluteSums, bench: TorchBench) -> None:
        self._statistic, self._bench = statistic, bench
        self._sums = [[0.0, 0.0] for _ in statistic.deltas]

    def add(self) -> None:
        deltas = self._bench.vectors("deltas")
        asked = zip(self._sums, self._statistic.deltas, self._statistic.masks, strict=True)
        for sums, delta, kind in asked:
            before = self._bench.scratch(0, torch.float64).copy_(deltas[delta]).abs_()
            after = self._bench.scratch(1, torch.float64)
            after.copy_(mask(kind, deltas[delta], self._bench)).mul_(before)
            sums[0] = self._added(sums[0], before)
            sums[1] = self._added(sums[1], after)

    def _added(self, total: float, values: Tensor) -> float:
        """The total after the sums of blocks, or of rows, one after the other."""
        if any(isinstance(kind, RankedRandom) for kind in self._statistic.masks):
            sums = fold(values.view(-1, row_length(self._bench.shape)).t())
        else:
            sums = block_sums(values)
        return in_order(torch.cat([sums.new_full((1,), total), sums])).item()

    def value(self) -> list[tuple[float, float]]:
        return [(before, after) for before, after in self._sums]


def parts(count: int, size: int = BLOCK) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _keys(values: Tensor, bench: TorchBench) -> tuple[Tensor, Tensor]:
    """The 31 bits of |x|, and the high 15 of them."""
    keys, high = bench.scratch(-1, torch.int32), bench.scratch(-2, torch.int32)
    torch.bitwise_and(values.view(torch.int32), 0x7FFFFFFF, out=keys)
    return keys, torch.bitwise_right_shift(keys, 16, out=high)
