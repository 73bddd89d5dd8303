"""The statistics of `places` that have loops here, gathered from what is put on the bench."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mergebuild.kernels.interface import Gathering
from mergebuild.kernels.numba.divergences import divergences
from mergebuild.kernels.numba.numbers import TILE, rounded
from mergebuild.kernels.numba.place_counts import extremes, overlaps
from mergebuild.kernels.numba.sources import Source, important, leading, sources
from mergebuild.kernels.numba.value_brackets import selected_squares
from mergebuild.kernels.numba.value_counts import SIZE, count_values_high, count_values_low
from mergebuild.kernels.operations import BLOCK, Statistic, row_length
from mergebuild.kernels.places import (
    Extremes,
    ImportanceHighCounts,
    OverlapCounts,
    SelectedSquares,
    Value,
    ValueHighCounts,
    ValueLowCounts,
)

if TYPE_CHECKING:
    from mergebuild.kernels.numba.bench import NumbaBench

Counts: TypeAlias = NDArray[np.int64]


def gather_places(statistic: Statistic, bench: NumbaBench) -> Gathering | None:
    """Start gathering a statistic; None if there is no loop for it."""
    match statistic:
        case ValueHighCounts(values):
            return GatherValueCounts(values, [High(bench) for _ in values], bench)
        case ValueLowCounts(values, buckets):
            return GatherValueCounts(values, [Low(bench, some) for some in buckets], bench)
        case ImportanceHighCounts():
            return GatherImportanceHighCounts(bench)
        case SelectedSquares():
            return GatherSelectedSquares(statistic, bench)
        case Extremes():
            return GatherExtremes(bench)
        case OverlapCounts():
            return GatherOverlapCounts(statistic, bench)
    return None


class High:
    """One value's counts by high half keys."""

    def __init__(self, bench: NumbaBench) -> None:
        self._bench = bench
        self._counts = np.zeros((2, SIZE), np.int64)

    def add(self, source: Source) -> None:
        bench = self._bench
        count_values_high(
            *leading(source, bench),
            bench.scratch("keys", np.uint32, TILE),
            self._counts,
        )

    def merge(self, after: Any) -> None:
        self._counts += after._counts

    def value(self) -> Counts:
        return np.asarray(self._counts.sum(axis=0))


class Low:
    """One value's counts by low half keys, inside buckets."""

    def __init__(self, bench: NumbaBench, buckets: Sequence[int]) -> None:
        self._bench = bench
        self._buckets = np.array(buckets, np.int64)
        self._counts = np.zeros((len(buckets), SIZE), np.int64)

    def add(self, source: Source) -> None:
        bench = self._bench
        count_values_low(
            *leading(source, bench),
            self._buckets,
            bench.scratch("keys", np.uint32, TILE),
            bench.scratch("places", np.int64, TILE),
            self._counts,
        )

    def merge(self, after: Any) -> None:
        self._counts += after._counts

    def value(self) -> dict[int, Counts]:
        return dict(zip(self._buckets.tolist(), self._counts, strict=True))


class GatherValueCounts:
    """Counts of several values, in a counter each."""

    def __init__(
        self, values: Sequence[Value], found: Sequence[High | Low], bench: NumbaBench
    ) -> None:
        self._values, self._found, self._bench = values, found, bench

    def add(self) -> None:
        made = sources(self._values, self._bench)
        for found, source in zip(self._found, made, strict=True):
            found.add(source)

    def merge(self, after: GatherValueCounts) -> None:
        for one, more in zip(self._found, after._found, strict=True):
            one.merge(more)

    def value(self) -> list[Counts | dict[int, Counts]]:
        return [one.value() for one in self._found]


class GatherImportanceHighCounts:
    def __init__(self, bench: NumbaBench) -> None:
        self._bench = bench
        self._found: list[NDArray[np.float64]] = []
        self._counts = High(bench)

    def add(self) -> None:
        bench = self._bench
        length = row_length(bench.shape)
        kappa = np.empty(bench.count // length)
        rows = bench.scratch("rows", np.float64, 3, length)
        divergences(bench.raw, bench.codes, length, bench.floats(1), rows[:2], rows[2], kappa)
        self._found.append(kappa)
        self._counts.add(important(kappa, bench))

    def merge(self, after: GatherImportanceHighCounts) -> None:
        self._found += after._found
        self._counts.merge(after._counts)

    def value(self) -> tuple[NDArray[np.float64], Counts]:
        return np.concatenate(self._found), self._counts.value()


class GatherSelectedSquares:
    def __init__(self, statistic: SelectedSquares, bench: NumbaBench) -> None:
        self._least, self._bench = rounded(statistic.least)[()], bench
        self._sums: list[NDArray[np.float64]] = []

    def add(self) -> None:
        bench, deltas = self._bench, len(self._bench.codes) - 1
        for start in range(0, bench.count, BLOCK):
            sums = np.empty(deltas)
            selected_squares(
                bench.raw,
                bench.codes,
                self._least,
                start,
                min(BLOCK, bench.count - start),
                bench.floats(2 + deltas),
                bench.scratch("wide", np.float64, 2, TILE),
                bench.scratch("squares", np.float64, deltas, BLOCK),
                sums,
            )
            self._sums.append(sums)

    def merge(self, after: GatherSelectedSquares) -> None:
        self._sums += after._sums

    def value(self) -> tuple[float, ...]:
        with np.errstate(all="ignore"):  # what is not finite is reported elsewhere
            return tuple(np.add.accumulate(self._sums)[-1].tolist())


class GatherExtremes:
    def __init__(self, bench: NumbaBench) -> None:
        self._bench = bench
        self._found = np.tile(np.array([0xFFFFFFFF, 0], np.uint32), (len(bench.codes) - 1, 1))

    def add(self) -> None:
        bench = self._bench
        extremes(bench.raw, bench.codes, bench.count, bench.floats(2), self._found)

    def merge(self, after: GatherExtremes) -> None:
        self._found[:, 0] = np.minimum(self._found[:, 0], after._found[:, 0])
        self._found[:, 1] = np.maximum(self._found[:, 1], after._found[:, 1])

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

    def merge(self, after: GatherOverlapCounts) -> None:
        self._found += after._found

    def value(self) -> list[tuple[int, int]]:
        return [(there - alone, alone) for there, alone in self._found.tolist()]
