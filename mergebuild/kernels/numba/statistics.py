"""The statistics of `operations` that have loops here, gathered from what is put on the bench."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mergebuild.kernels.interface import Gathering
from mergebuild.kernels.numba.counts import HIGH, LOW, count_high, count_low
from mergebuild.kernels.numba.magnitudes import absolute_sums
from mergebuild.kernels.numba.masking import arrays, given, known
from mergebuild.kernels.numba.numbers import TILE
from mergebuild.kernels.numba.order_statistics import gather_keys
from mergebuild.kernels.numba.place_statistics import gather_places
from mergebuild.kernels.numba.sums import (
    LANES,
    gram_block,
    gram_columns,
    gram_pairs,
    load_wide,
)
from mergebuild.kernels.operations import (
    BLOCK,
    AbsoluteSums,
    Gram,
    HighCounts,
    LowCounts,
    Of,
    RankedRandom,
    Statistic,
    column_count,
    row_length,
)

if TYPE_CHECKING:
    from mergebuild.kernels.numba.bench import NumbaBench


def gather(statistic: Statistic, bench: NumbaBench) -> Gathering | None:
    """Start gathering a statistic; None if there is no loop for it."""
    kind = type(statistic)
    if kind is Gram:
        assert isinstance(statistic, Gram)
        if statistic.per == "tensor":
            return GatherGram(statistic, bench)
        return GatherColumnGram(statistic, bench) if statistic.per == "column" else None
    if kind is HighCounts:
        assert isinstance(statistic, HighCounts)
        return GatherHighCounts(statistic, bench)
    if kind is LowCounts:
        assert isinstance(statistic, LowCounts)
        return GatherLowCounts(statistic, bench)
    if kind is AbsoluteSums:
        assert isinstance(statistic, AbsoluteSums)
        return GatherAbsoluteSums(statistic, bench) if known(statistic.masks) else None
    return gather_keys(statistic, bench) or gather_places(statistic, bench)


def vector_count(of: Of, bench: NumbaBench) -> int:
    return len(bench.codes) - (of == "deltas")


def square(upper: NDArray[np.float64], vectors: int) -> NDArray[np.float64]:
    """Symmetric matrices (…, vectors, vectors) from upper triangles, rows joined, (…, pairs)."""
    rows, columns = np.triu_indices(vectors)
    full = np.empty((*upper.shape[:-1], vectors, vectors))
    full[..., rows, columns] = upper
    full[..., columns, rows] = upper
    return full


def added(sums: NDArray[np.float64], more: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(all="ignore"):  # what is not finite is reported elsewhere
        return sums + more


class GatherGram:
    def __init__(self, statistic: Gram, bench: NumbaBench) -> None:
        self._bench, self._deltas = bench, statistic.of == "deltas"
        self._vectors = vector_count(statistic.of, bench)
        self._pairs = self._vectors * (self._vectors + 1) // 2
        self._sums: list[NDArray[np.float64]] = []

    def add(self) -> None:
        for start in range(0, self._bench.count, BLOCK):
            count = min(BLOCK, self._bench.count - start)
            sums = self._full(start) if count == BLOCK else self._short(start, count)
            self._sums.append(sums)

    def merge(self, after: GatherGram) -> None:
        self._sums += after._sums

    def value(self) -> tuple[tuple[float, ...], ...]:
        return tuple(map(tuple, square(reduce(added, self._sums), self._vectors).tolist()))

    def _full(self, start: int) -> NDArray[np.float64]:
        bench, sums = self._bench, np.empty(self._pairs)
        floats = bench.floats(1 + self._vectors)
        lanes = bench.scratch("lanes", np.float64, self._pairs, LANES)
        gram_block(bench.raw, bench.codes, self._deltas, start, floats, lanes, sums)
        return sums

    def _short(self, start: int, count: int) -> NDArray[np.float64]:
        bench, sums = self._bench, np.empty((self._pairs, 1))
        doubles = np.empty((self._vectors, count))
        floats = bench.floats(2)
        load_wide(bench.raw, bench.codes, self._deltas, start, count, floats, doubles, 0)
        gram_pairs(doubles, count, 1, np.empty(count), sums)
        return sums[:, 0]


class GatherColumnGram:
    def __init__(self, statistic: Gram, bench: NumbaBench) -> None:
        self._bench, self._deltas = bench, statistic.of == "deltas"
        self._columns = column_count(bench.shape)
        self._vectors = vector_count(statistic.of, bench)
        self._pairs = self._vectors * (self._vectors + 1) // 2
        self._sums: NDArray[np.float64] | None = None

    def add(self) -> None:
        bench, columns = self._bench, self._columns
        step = max(1, BLOCK // columns)
        width = columns if columns <= 256 else max(64, 8 * TILE // step)
        doubles = bench.scratch("columns", np.float64, self._vectors, step * width)
        scratch = bench.scratch("column", np.float64, step * width)
        for start in range(0, bench.count, step * columns):
            rows = min(step, (bench.count - start) // columns)
            sums = np.empty((self._pairs, columns))
            gram_columns(
                bench.raw,
                bench.codes,
                self._deltas,
                start,
                rows,
                columns,
                width,
                bench.floats(2),
                doubles,
                scratch,
                sums,
            )
            self._sums = sums if self._sums is None else added(self._sums, sums)

    def value(self) -> NDArray[np.float64]:
        assert self._sums is not None, "value before add"
        return square(self._sums.T, self._vectors)


class GatherHighCounts:
    def __init__(self, statistic: HighCounts, bench: NumbaBench) -> None:
        self._statistic, self._bench = statistic, bench
        self._counts = np.zeros((len(statistic.deltas), 2, 2, HIGH), np.int64)

    def add(self) -> None:
        bench, sums = self._bench, self._statistic.sums
        for counts, delta in zip(self._counts, self._statistic.deltas, strict=True):
            count_high(bench.raw, bench.codes, delta, sums, bench.count, bench.floats(2), counts)

    def merge(self, after: GatherHighCounts) -> None:
        self._counts += after._counts

    def value(self) -> list[NDArray[np.int64]]:
        return list(self._counts.sum(axis=1))


class GatherLowCounts:
    def __init__(self, statistic: LowCounts, bench: NumbaBench) -> None:
        self._statistic, self._bench = statistic, bench
        self._counts = [np.zeros((len(some), LOW), np.int64) for some in statistic.buckets]
        self._buckets = [np.array(some, np.int64) for some in statistic.buckets]

    def add(self) -> None:
        bench = self._bench
        inside = bench.scratch("inside", np.uint16, TILE)
        asked = zip(self._counts, self._buckets, self._statistic.deltas, strict=True)
        for counts, buckets, delta in asked:
            floats = bench.floats(2)
            count_low(bench.raw, bench.codes, delta, buckets, bench.count, floats, inside, counts)

    def merge(self, after: GatherLowCounts) -> None:
        for counts, more in zip(self._counts, after._counts, strict=True):
            counts += more

    def value(self) -> list[dict[int, Any]]:
        return [
            dict(zip(buckets, counts, strict=True))
            for buckets, counts in zip(self._statistic.buckets, self._counts, strict=True)
        ]


class GatherAbsoluteSums:
    def __init__(self, statistic: AbsoluteSums, bench: NumbaBench) -> None:
        self._statistic, self._bench = statistic, bench
        self._masks = arrays(statistic.masks)
        self._sums: list[NDArray[np.float64]] = []

    def add(self) -> None:
        bench, masks = self._bench, self._masks
        ranked = any(isinstance(mask, RankedRandom) for mask in self._statistic.masks)
        length = row_length(bench.shape) if ranked else BLOCK
        doubles = bench.scratch("magnitudes", np.float64, 2, min(length, bench.count))
        kept = given(self._statistic.masks, self._statistic.deltas, bench, again=True)
        sums = np.empty((len(self._statistic.deltas), -(-bench.count // length), 2))
        for i, delta in enumerate(self._statistic.deltas):
            absolute_sums(
                bench.raw,
                bench.codes,
                delta,
                masks.kinds[i],
                masks.bounds[i],
                masks.streams[i],
                masks.limits[i],
                kept[i],
                bench.start,
                length,
                bench.count,
                bench.floats(3),
                doubles,
                sums[i],
            )
        self._sums.append(sums)

    def merge(self, after: GatherAbsoluteSums) -> None:
        self._sums += after._sums

    def value(self) -> list[tuple[float, float]]:
        with np.errstate(all="ignore"):
            whole = np.cumsum(np.concatenate(self._sums, axis=1), axis=1)[:, -1]
        return [(before, after) for before, after in whole.tolist()]
