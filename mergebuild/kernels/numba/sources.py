"""Where the values of `places` come from, as arguments of the loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mergebuild.kernels.numba.numbers import TILE, rounded
from mergebuild.kernels.numba.values import BALANCE, IMPORTANCE, SPREAD
from mergebuild.kernels.operations import row_length
from mergebuild.kernels.places import Balance, Importance, Spread, Value

if TYPE_CHECKING:
    from mergebuild.kernels.numba.bench import NumbaBench


Leading: TypeAlias = tuple[int, Any, Any, Any, int, int, Any, Any, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """Of the values of a chunk; `numbers` and `place` as `derive` has them."""

    kind: int
    numbers: NDArray[np.float32]
    place: int


def leading(source: Source, bench: NumbaBench) -> Leading:
    """What every loop over values begins with: all that `derive` needs for the chunk on the bench,
    and float32 (TILE) for what it finds."""
    return (
        source.kind,
        bench.raw,
        bench.codes,
        source.numbers,
        source.place,
        bench.count,
        bench.floats(len(bench.codes)),
        bench.scratch("wide", np.float64, 2, TILE),
        bench.scratch("values", np.float32, TILE),
    )


def sources(values: Sequence[Value], bench: NumbaBench) -> list[Source]:
    """Those of the values of what is on the bench."""
    return [_source(value, bench) for value in values]


def _source(value: Value, bench: NumbaBench) -> Source:
    match value:
        case Spread():
            return Source(SPREAD, np.empty(0, np.float32), 1)
        case Importance(divergences):
            return important(divergences[bench.start // row_length(bench.shape) :], bench)
        case Balance(delta, low, high):
            return Source(BALANCE, rounded([low, high]), delta)


def important(kappa: NDArray[np.float64], bench: NumbaBench) -> Source:
    """`Importance` by κ of the rows from the first one on the bench on."""
    length = row_length(bench.shape)
    return Source(IMPORTANCE, rounded(kappa[: bench.count // length]), length)
