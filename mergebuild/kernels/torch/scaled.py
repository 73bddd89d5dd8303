"""W·S over rows of W, where S has a number for each block of elements of W.

In float32, rounded once. Every element is a product of two numbers, so the bits do not depend on
how a caller splits W. A row is what the last dimension holds.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_ELEMENTS: Final = 1 << 17


def rows_of_block(columns: int) -> int:
    """How many rows of W to evaluate at a time."""
    return max(1, _ELEMENTS // max(1, columns))


class BlockScale:
    """The scales of one weight of `shape` (one dimension at least), held as float32.

    `scale` comes as raw bytes with its dtype; each of its elements covers a block of `blocks`
    elements of the weight, dimension by dimension. Without a scale values are taken as they are.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        scale: tuple[bytearray, str] | None,
        blocks: tuple[int, ...],
    ) -> None:
        self._columns = shape[-1]
        self._outer = list(zip(shape[:-1], blocks[:-1], strict=True))
        self._grid: Tensor | None = None
        if scale is not None:
            raw, dtype = scale
            self._width = blocks[-1]
            values = torch.frombuffer(raw, dtype=getattr(torch, dtype)).float()
            self._grid = values.view(-1, max(1, -(-self._columns // self._width)))

    def apply(self, weight: bytearray, dtype: str, first: int, rows: int) -> memoryview:
        """The values of `rows` rows from `first` on as raw float32, given those rows of W."""
        kind: torch.dtype = getattr(torch, dtype)
        values = torch.frombuffer(weight, dtype=kind).view(rows, self._columns).float()
        if self._grid is not None:
            scales = self._grid[self._row_of_grid(torch.arange(first, first + rows))]
            if self._width < self._columns:
                scales = scales.repeat_interleave(self._width, 1)[:, : self._columns]
            values *= scales
        return values.numpy().data.cast("B")

    def _row_of_grid(self, row: Tensor) -> Tensor:
        """Which row of the grid covers each row of W."""
        found = torch.zeros_like(row)
        stride = 1
        for length, block in reversed(self._outer):
            found += row % length // block * stride
            row = row // length
            stride *= -(-length // block)
        return found
