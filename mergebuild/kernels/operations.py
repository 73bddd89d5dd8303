"""The few operations that every merge method is made of: statistics over a tensor, and final maps.

A method is a generator: it yields statistics, is sent their values, and returns the map that
makes the output. These are descriptions only; implementations stand in the modules beside this
one. Knows no files, names or methods, and imports no torch.

Of a tensor with operands x_0 … x_N-1, "inputs" are the operands as they are, "deltas" are
fl32(x_i - x_0) for i ≥ 1: operand 0 is the base then. All values are float32.

Sums are float64 and have one defined order, so that their bits depend on nothing else: elements
are taken in blocks of `BLOCK`, the last one padded with zeros; a block is folded in halves
(v[:h] + v[h:] until one element is left); blocks are added in ascending order. Sums of a row are
one such fold over the row, sums of a column over at most `BLOCK` elements of whole rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

BLOCK: Final = 65_536
"""Elements that are summed as one; chunks are multiples of it."""

Of: TypeAlias = Literal["inputs", "deltas"]
Shape: TypeAlias = tuple[int, ...]


def row_length(shape: Shape) -> int:
    """Elements of one row, a vector along the last axis."""
    return shape[-1] if shape else 1


def column_count(shape: Shape) -> int:
    """How many columns there are, vectors along the first axis."""
    return math.prod(shape[1:])


class Statistic:
    """A request for numbers gathered over one whole pass."""

    __slots__ = ()

    def grain(self, shape: Shape) -> int:
        """Chunks hold a multiple of so many elements (but for the last one)."""
        return BLOCK


@dataclass(frozen=True, slots=True)
class Report:
    """Something about a tensor that the user should know; no pass is made for it.

    `text` is the same for every tensor that it is true of, so that they can be counted.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Turn:
    """From here on every operand, a matrix, is the transpose of what it was, and so is the output.

    No pass is made for it; it comes before all statistics.
    """


class Map:
    """How every output element follows from the input elements at the same place."""

    __slots__ = ()

    def grain(self, shape: Shape) -> int:
        """Chunks hold a multiple of so many elements (but for the last one)."""
        return BLOCK


Steps: TypeAlias = Generator[Statistic | Report | Turn, Any, Map]


# Masks: which elements of a delta stay. They multiply, so that 0·inf and 0·NaN stay visible.


@dataclass(frozen=True, slots=True)
class DropAll:
    """Keep nothing."""


@dataclass(frozen=True, slots=True)
class AtLeast:
    """Keep |d| ≥ threshold, which is a float32 value."""

    threshold: float


@dataclass(frozen=True, slots=True)
class Band:
    """Keep low ≤ |d| ≤ high, which are float32 values."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Random:
    """Keep with this probability, 0 to 1 exclusive, drawn from the two words of a stream."""

    probability: float
    stream: tuple[int, int]


@dataclass(frozen=True, slots=True)
class RankedRandom:
    """Keep with a probability that grows with the rank of |d| in its row, from the least,
    probability - epsilon, to the largest, probability + epsilon; both lie inside (0, 1).

    Equal magnitudes rank by their place; a row of one element has `probability`. With `inverse`
    what is kept is divided by its own probability.
    """

    probability: float
    epsilon: float
    stream: tuple[int, int]
    inverse: bool = False


Mask: TypeAlias = DropAll | AtLeast | Band | Random | RankedRandom


def _mask_grain(masks: Iterable[Mask | None], shape: Shape) -> int:
    """Ranks need whole rows."""
    ranked = any(isinstance(mask, RankedRandom) for mask in masks)
    return max(1, row_length(shape)) if ranked else BLOCK


# Statistics.


@dataclass(frozen=True, slots=True)
class Gram(Statistic):
    """Inner products of the operands with each other.

    Value per tensor: K by K, nested tuples of float. Per column: float64 array (columns, K, K).
    Of rows there is none: `RowCombination` holds whole rows and needs no pass before it.
    """

    of: Of
    per: Literal["tensor", "column"] = "tensor"

    def grain(self, shape: Shape) -> int:
        return _column_grain(shape) if self.per == "column" else BLOCK


@dataclass(frozen=True, slots=True)
class HighCounts(Statistic):
    """Magnitudes of some deltas, counted by the high 15 of their 31 bits (sign dropped).

    `deltas` are positions among the deltas. Value, one per position: int64 array (2, 32768), the
    counts and, if `sums`, the sum of the low 16 bits of what was counted (else zeros).
    """

    deltas: tuple[int, ...]
    sums: bool = False


@dataclass(frozen=True, slots=True)
class LowCounts(Statistic):
    """Magnitudes inside chosen buckets of `HighCounts`, counted by their low 16 bits.

    `buckets` are the chosen high halves of each of `deltas`. Value, one per position: a mapping
    from bucket to int64 array (65536,).
    """

    deltas: tuple[int, ...]
    buckets: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class AbsoluteSums(Statistic):
    """Σ|d| of some deltas before and after a mask. Value, one per position: two floats.

    Where any mask is a `RankedRandom` the sums go by rows in place of blocks.
    """

    deltas: tuple[int, ...]
    masks: tuple[Mask, ...]

    def grain(self, shape: Shape) -> int:
        return _mask_grain(self.masks, shape)


# Maps.


@dataclass(frozen=True, slots=True)
class Identity(Map):
    """y = x of one operand; the same bytes where the dtype is the same."""

    operand: int = 0


@dataclass(frozen=True, slots=True)
class Combination(Map):
    """y = Σ c_i·x_i, or b + Σ c_i·d_i; summed in the operands' order."""

    of: Of
    coefficients: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ColumnCombination(Map):
    """`Combination` with coefficients of its own for every column: float64 array (columns, K)."""

    of: Of
    coefficients: Any

    def grain(self, shape: Shape) -> int:
        return _column_grain(shape)


@dataclass(frozen=True, slots=True)
class RowCombination(Map):
    """`Combination` with coefficients of its own for every row.

    `solve` gets the Gram matrices of some rows, a float64 array (rows, K, K), and returns their
    coefficients (rows, K). It must treat each row by itself.
    """

    of: Of
    solve: Callable[[Any], Any]

    def grain(self, shape: Shape) -> int:
        return max(1, row_length(shape))


@dataclass(frozen=True, slots=True)
class Sparse:
    """One delta on its way into the sum: δ = weight · (factor · (mask · d)), each step rounded."""

    weight: float
    mask: Mask | None = None
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class TaskVectors(Map):
    """y = b + scale · (m / divisor), for m = Σ δ_i.

    With `elect`, m sums only the δ_i that have the sign of Σ δ_i (+ if that is 0; zeros have
    none), and a divisor "elected" is the sum of their weights at each place, 1 where that is 0.
    """

    deltas: tuple[Sparse, ...]
    elect: bool = False
    divisor: float | Literal["elected"] = 1.0
    scale: float = 1.0

    def grain(self, shape: Shape) -> int:
        return _mask_grain((delta.mask for delta in self.deltas), shape)


def _column_grain(shape: Shape) -> int:
    columns = max(1, column_count(shape))
    return columns * max(1, BLOCK // columns)
