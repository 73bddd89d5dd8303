"""The statistics of `places` that have loops here, gathered from what is put on the bench."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mergebuild.kernels.interface import Gathering
from mergebuild.kernels.numba.divergences import divergences
from mergebuild.kernels.numba.numbers import TILE, rounded
from mergebuild.kernels.numba.place_counts import extremes, overlaps
from mergebuild.kernels.numba.sources import Source, important, sources
from mergebuild.kernels.numba.value_counts import (
    GROUPS,
    SIZE,
    count_values_high,
    count_values_low,
)
from mergebuild.kernels.operations import Statistic, row_length
from mergebuild.kernels.places import (
    Extremes,
    ImportanceHighCounts,
    OverlapCounts,
    ValueHighCounts,
    ValueLowCounts,
)

if TYPE_CHECKING:
    from mergebuild.kernels.numba.bench import NumbaBench

Squares: TypeAlias = NDArray[np.float64] | None


def gather_places(statistic: Statistic, bench: NumbaBench) -> Gathering | None:
    """Start gathering a statistic; None if there is no loop for it."""
    match statistic:
        case ValueHighCounts():
            return GatherValueHighCounts(statistic, bench)
        case ValueLowCounts():
            return GatherValueLowCounts(statistic, bench)
        case ImportanceHighCounts():
            return GatherImportanceHighCounts(bench)
        case Extremes():
            return GatherExtremes(bench)
        case OverlapCounts():
            return GatherOverlapCounts(statistic, bench)
    return None


class High:
    """One value's counts by high half keys."""

    def __init__(self, bench: NumbaBench, squares: bool) -> None:
        deltas = len(bench.codes) - 1 if squares else 0
        self._bench, self._wanted = bench, squares
        self._counts = np.zeros((2, SIZE), np.int64)
        self._zeros = 0
        self._touched = np.zeros(GROUPS, np.uint8)
        self._block = np.zeros((deltas, SIZE))
        self._sums = np.zeros((deltas, SIZE))

    def add(self, source: Source) -> None:
        bench = self._bench
        self._zeros += count_values_high(
            source.kind,
            bench.raw,
            bench.codes,
            source.numbers,
            source.place,
            bench.count,
            self._wanted,
            bench.floats(len(bench.codes)),
            bench.scratch("wide", np.float64, 2, TILE),
            bench.scratch("values", np.float32, TILE),
            bench.scratch("keys", np.uint32, TILE),
            self._counts,
            self._touched,
            self._block,
            self._sums,
        )

    def value(self) -> tuple[NDArray[np.int64], int, Squares]:
        return self._counts.sum(axis=0), self._zeros, self._sums if self._wanted else None


class Low:
    """One value's counts by low half keys, inside buckets."""

    def __init__(self, bench: NumbaBench, buckets: Sequence[int], squares: bool) -> None:
        shape = (len(buckets), len(bench.codes) - 1 if squares else 0, SIZE)
        self._bench, self._wanted = bench, squares
        self._buckets = np.array(buckets, np.int64)
        self._counts = np.zeros((len(buckets), SIZE), np.int64)
        self._touched = np.zeros((len(buckets), GROUPS), np.uint8)
        self._block = np.zeros(shape)
        self._sums = np.zeros(shape)

    def add(self, source: Source) -> None:
        bench = self._bench
        count_values_low(
            source.kind,
            bench.raw,
            bench.codes,
            source.numbers,
            source.place,
            bench.count,
            self._buckets,
            self._wanted,
            bench.floats(len(bench.codes)),
            bench.scratch("wide", np.float64, 2, TILE),
            bench.scratch("values", np.float32, TILE),
            bench.scratch("keys", np.uint32, TILE),
            bench.scratch("places", np.int64, TILE),
            self._counts,
            self._touched,
            self._block,
            self._sums,
        )

    def value(self) -> dict[int, tuple[NDArray[np.int64], Squares]]:
        found = zip(self._buckets.tolist(), self._counts, self._sums, strict=True)
        return {bucket: (counts, sums if self._wanted else None) for bucket, counts, sums in found}


class GatherValueHighCounts:
    def __init__(self, statistic: ValueHighCounts, bench: NumbaBench) -> None:
        self._statistic, self._bench = statistic, bench
        self._found = [High(bench, statistic.squares) for _ in statistic.values]

    def add(self) -> None:
        made = sources(self._statistic.values, self._bench)
        for found, source in zip(self._found, made, strict=True):
            found.add(source)

    def value(self) -> list[tuple[NDArray[np.int64], int, Squares]]:
        return [one.value() for one in self._found]


class GatherValueLowCounts:
    def __init__(self, statistic: ValueLowCounts, bench: NumbaBench) -> None:
        self._statistic, self._bench = statistic, bench
        self._found = [Low(bench, buckets, statistic.squares) for buckets in statistic.buckets]

    def add(self) -> None:
        made = sources(self._statistic.values, self._bench)
        for found, source in zip(self._found, made, strict=True):
            found.add(source)

    def value(self) -> list[dict[int, tuple[NDArray[np.int64], Squares]]]:
        return [one.value() for one in self._found]


class GatherImportanceHighCounts:
    def __init__(self, bench: NumbaBench) -> None:
        self._bench = bench
        self._found: list[NDArray[np.float64]] = []
        self._counts = High(bench, squares=False)

    def add(self) -> None:
        bench = self._bench
        length = row_length(bench.shape)
        kappa = np.empty(bench.count // length)
        rows = bench.scratch("rows", np.float64, 3, length)
        divergences(bench.raw, bench.codes, length, bench.floats(1), rows[:2], rows[2], kappa)
        self._found.append(kappa)
        self._counts.add(important(kappa, bench))

    def value(self) -> tuple[NDArray[np.float64], tuple[NDArray[np.int64], int, Squares]]:
        return np.concatenate(self._found), self._counts.value()


class GatherExtremes:
    def __init__(self, bench: NumbaBench) -> None:
        self._bench = bench
        self._found = np.tile(np.array([0xFFFFFFFF, 0], np.uint32), (len(bench.codes) - 1, 1))

    def add(self) -> None:
        bench = self._bench
        extremes(bench.raw, bench.codes, bench.count, bench.floats(2), self._found)

    def value(self) -> list[tuple[float, float]]:
        found = self._found.view(np.float32)
        return [(high if high != high else low, high) for low, high in found.tolist()]


class GatherOverlapCounts:
    def __init__(self, statistic: OverlapCounts, bench: NumbaBench) -> None:
        self._threshold, self._bench = rounded(statistic.threshold)[()], bench
        self._found = np.zeros((len(bench.codes) - 1, 2), np.int64)

    def add(self) -> None:
        bench = self._bench
        floats = bench.floats(1 + len(bench.codes))
        overlaps(bench.raw, bench.codes, self._threshold, bench.count, floats, self._found)

    def value(self) -> list[tuple[int, int]]:
        return [(there - alone, alone) for there, alone in self._found.tolist()]
