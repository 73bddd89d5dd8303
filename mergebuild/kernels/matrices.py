"""Further operations, for methods that decompose matrices.

Descriptions only, as in `operations`, whose words are used here. A tensor is a matrix of
`columns` by rows that are read some at a time: what is decomposed are products of the columns.
Where there are more columns than rows a method yields `operations.Turn` first.

Products come from torch, and are tensors of torch on the kernels'
device. Rows are taken in tiles of one size, so results do not depend on chunks or threads; their
last bits do depend on the library that multiplies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mergebuild.kernels.operations import Map, Shape, Statistic, row_length

_TILE: Final = 2**19


def tile_rows(shape: Shape) -> int:
    """How many rows are multiplied at once."""
    return max(32, _TILE // max(1, row_length(shape)))


def _grain(shape: Shape) -> int:
    return tile_rows(shape) * max(1, row_length(shape))


@dataclass(frozen=True, slots=True)
class DeltaProducts(Statistic):
    """sᵀs of the sum s of some deltas, in float64. Value: float64 (columns, columns)."""

    deltas: tuple[int, ...]

    def grain(self, shape: Shape) -> int:
        return _grain(shape)


@dataclass(frozen=True, slots=True, eq=False)
class CrossProducts(Statistic):
    """U_iᵀU_j of every U_i = d_i·M_i and a later U_j, in a matrix as wide as all of them.

    `matrices` are float64, one per delta, with a row for each column. Value: float64, 0 on the
    diagonal and below.
    """

    matrices: tuple[Any, ...]

    def grain(self, shape: Shape) -> int:
        return _grain(shape)


@dataclass(frozen=True, slots=True, eq=False)
class Multiplied(Map):
    """y = b + Σ d_i·M_i or, with one matrix for all, b + (Σ d_i)·M.

    `matrices` are (columns, columns), one per delta or a single one, float32 or float64: in this
    is multiplied and summed, up to b + ….
    """

    matrices: tuple[Any, ...]

    def grain(self, shape: Shape) -> int:
        return _grain(shape)
