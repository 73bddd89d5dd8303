"""The operations of `matrices`: products over tiles of rows."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import Final

import torch
from torch import Tensor

from mergebuild.kernels.interface import Gathering
from mergebuild.kernels.matrices import CrossProducts, DeltaProducts, Multiplied, tile_rows
from mergebuild.kernels.operations import row_length
from mergebuild.kernels.torch.bench import TorchBench
from mergebuild.kernels.torch.maps import write
from mergebuild.kernels.torch.statistics import gather

_STRIP: Final = 256
"""Columns of a symmetric product that are made at once; nothing is made before its diagonal."""
_MMAP_THRESHOLD: Final = -3  # of glibc's mallopt
_LARGE: Final = 1 << 20


@gather.register
def _(statistic: DeltaProducts, bench: TorchBench) -> Gathering:
    return GatherDeltaProducts(statistic, bench)


@gather.register
def _(statistic: CrossProducts, bench: TorchBench) -> Gathering:
    return GatherCrossProducts(statistic, bench)


@cache
def _return_what_is_freed() -> None:
    """Have large blocks go back to the system when they are freed. Left alone glibc comes to keep
    those of up to 32 MiB, and holds half as much again as squares of 2,048 need."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)


class GatherDeltaProducts:
    def __init__(self, statistic: DeltaProducts, bench: TorchBench) -> None:
        self._deltas, self._bench = statistic.deltas, bench
        _return_what_is_freed()
        width = row_length(bench.shape)
        self._total = torch.zeros(width, width, dtype=torch.float64, device=bench.device)

    def add(self) -> None:
        for rows in _tiles(self._bench):
            _add_products(_sum([rows[delta] for delta in self._deltas]), self._total)

    def value(self) -> Tensor:
        return _mirrored(self._total)


class GatherCrossProducts:
    def __init__(self, statistic: CrossProducts, bench: TorchBench) -> None:
        self._matrices, self._bench = statistic.matrices, bench
        width = sum(one.shape[1] for one in self._matrices)
        self._total: Tensor = self._matrices[0].new_zeros(width, width)

    def add(self) -> None:
        for rows in _tiles(self._bench):
            made = [row.double() @ one for row, one in zip(rows, self._matrices, strict=True)]
            stop = 0
            for number, one in enumerate(made[:-1]):
                start, stop = stop, stop + one.shape[1]
                self._total[start:stop, stop:].addmm_(one.t(), torch.cat(made[number + 1 :], 1))

    def value(self) -> Tensor:
        return self._total


@write.register
def _(operation: Multiplied, bench: TorchBench, result: Tensor) -> None:
    base, columns, done = bench.vectors("inputs")[0], row_length(bench.shape), 0
    for rows in _tiles(bench):
        if len(operation.matrices) == 1:
            rows = [_sum(rows)]
        made: Tensor | None = None
        for row, matrix in zip(rows, operation.matrices, strict=True):
            factor = row.to(matrix.dtype)
            made = factor @ matrix if made is None else made.addmm_(factor, matrix)
        assert made is not None
        size = len(made) * columns
        torch.add(base[done : done + size], made.view(-1).float(), out=result[done : done + size])
        done += size


def _tiles(bench: TorchBench) -> Iterator[list[Tensor]]:
    """The deltas, some rows at a time."""
    columns, step = row_length(bench.shape), tile_rows(bench.shape)
    deltas = [delta.view(-1, columns) for delta in bench.vectors("deltas")]
    for start in range(0, len(deltas[0]), step):
        yield [delta[start : start + step] for delta in deltas]


def _sum(rows: Sequence[Tensor]) -> Tensor:
    total = rows[0].double()
    for row in rows[1:]:
        total.add_(row)
    return total


def _add_products(matrix: Tensor, total: Tensor) -> None:
    """Add MᵀM, from the diagonal on only."""
    for start in range(0, len(total), _STRIP):
        stop = start + _STRIP
        total[start:stop, start:].addmm_(matrix[:, start:stop].t(), matrix[:, start:])


def _mirrored(total: Tensor) -> Tensor:
    for start in range(0, len(total), _STRIP):
        stop = start + _STRIP
        total[stop:, start:stop] = total[start:stop, stop:].t()
        own = total[start:stop, start:stop]
        own.copy_(own.triu() + own.triu(1).t())
    return total
