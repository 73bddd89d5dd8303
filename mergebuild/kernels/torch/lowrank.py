"""W + s·L·R over rows of W, where L has as many columns as R has rows: few.

In float64, rounded once to float32. The bits do not depend on how a caller splits W, for the
product is always made over the same rows at a time: as many as `rows_of_block` says.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_ELEMENTS: Final = 1 << 17


def rows_of_block(columns: int) -> int:
    """How many rows of W one product covers: the k-th from this many times k on."""
    return max(1, _ELEMENTS // max(1, columns))


class LowRankSum:
    """The factors of one weight of `columns` columns, held as float64.

    `left` [rows, r] and `right` [r, columns] come as raw bytes with their dtype; `transposed`
    means that they come as [r, rows] and [columns, r].
    """

    def __init__(
        self,
        left: tuple[bytearray, str, tuple[int, int]],
        right: tuple[bytearray, str, tuple[int, int]],
        scale: float,
        *,
        transposed: bool,
    ) -> None:
        one, other = _matrix(*left), _matrix(*right)
        if transposed:
            one, other = one.T.contiguous(), other.T.contiguous()
        self._left = one * scale
        self._right = other

    def add(self, weight: bytearray, dtype: str, first: int, rows: int) -> memoryview:
        """The sum over `rows` rows from `first` on as raw float32, given those rows of W."""
        product = self._left[first : first + rows] @ self._right
        product += _matrix(weight, dtype, (rows, self._right.shape[1]))
        return product.float().numpy().data.cast("B")


def _matrix(raw: bytearray, dtype: str, shape: tuple[int, int]) -> Tensor:
    if not raw:
        return torch.zeros(shape, dtype=torch.float64)
    kind: torch.dtype = getattr(torch, dtype)
    return torch.frombuffer(raw, dtype=kind).view(shape).double()
