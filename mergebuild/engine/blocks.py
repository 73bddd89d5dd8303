"""Reading a tensor that is evaluated where it is read, by blocks of rows.

Nothing of it is written, and memory stays that of one block. Knows not what a block is made of.
"""

from __future__ import annotations

from math import prod
from typing import Protocol

from mergebuild.checkpoint.dtypes import itemsize


class Operand(Protocol):
    """A tensor as it can be read, wherever it comes from."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def itemsize(self) -> int: ...

    def read(self, start: int, stop: int, into: memoryview) -> None:
        """Raw bytes of the elements from `start` up to `stop`, filling `into` exactly."""


class BlockReader:
    """One tensor in blocks of `rows_of_block` rows of `columns` elements, whatever its shape.

    For one thread; ascending reads evaluate each block once.
    """

    def __init__(
        self, dtype: str, shape: tuple[int, ...], columns: int, rows_of_block: int
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self._columns = columns
        self._rows = rows_of_block
        self._block: tuple[int, memoryview] = -1, memoryview(b"")

    @property
    def itemsize(self) -> int:
        return itemsize(self.dtype)

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.count * self.itemsize

    def read(self, start: int, stop: int, into: memoryview) -> None:
        """Raw elements from `start` up to `stop`, filling `into` exactly.

        Raises CheckpointError if a file ends too early or cannot be read.
        """
        item = self.itemsize
        if not 0 <= start <= stop <= self.count or into.nbytes != (stop - start) * item:
            raise ValueError(f"[{start}, {stop}) of {self.count} into {into.nbytes} bytes")
        view = into.cast("B") if into.nbytes else into
        step = self._rows * self._columns
        at = start
        while at < stop:
            number = at // step
            block = self._numbered(number)
            begin = at - number * step
            end = min(stop - number * step, len(block) // item)
            view[(at - start) * item : (at - start + end - begin) * item] = block[
                begin * item : end * item
            ]
            at += end - begin

    def evaluate(self, first: int, last: int) -> memoryview:
        """The rows from `first` up to `last`, raw."""
        raise NotImplementedError

    def _numbered(self, number: int) -> memoryview:
        """The block with this number, of as many rows as there are left."""
        if self._block[0] != number:
            first = number * self._rows
            last = min(first + self._rows, self.count // self._columns)
            self._block = number, self.evaluate(first, last)
        return self._block[1]
