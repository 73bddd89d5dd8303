"""Reading a tensor whose rows were put into the order of another vocabulary.

A view that is evaluated where it is read, by blocks of rows: nothing of it is written, and memory
stays that of a block. Knows no tokens and no methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final

from mergebuild.checkpoint.dtypes import itemsize
from mergebuild.engine.derived import Operand
from mergebuild.vocabulary.rows import MEAN, ZERO, RowTable, Run

_BLOCK: Final = 1 << 18


class RowsReader:
    """Rows of `parts` as `table` says, in `dtype`: the parts' own, or float32.

    `shape` is that of the whole. For one thread; ascending reads evaluate each block once.
    """

    def __init__(
        self, parts: Sequence[Operand], table: RowTable, dtype: str, shape: tuple[int, ...]
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self._parts = parts
        self._table = table
        self._columns = prod(shape) // max(1, len(table))
        self._rows = max(1, _BLOCK // max(1, self._columns))
        self._block: tuple[int, memoryview] = -1, memoryview(b"")
        self._mean: tuple[int, memoryview] = -1, memoryview(b"")

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
            block = self._evaluated(number)
            begin = at - number * step
            end = min(stop - number * step, len(block) // item)
            view[(at - start) * item : (at - start + end - begin) * item] = block[
                begin * item : end * item
            ]
            at += end - begin

    def _evaluated(self, number: int) -> memoryview:
        """The block with this number, of as many rows as there are left."""
        if self._block[0] != number:
            first = number * self._rows
            last = min(first + self._rows, len(self._table))
            width = self._columns * self.itemsize
            block = memoryview(bytearray((last - first) * width))
            # In the parts' own order, so that what is evaluated by blocks itself is so once.
            for run in sorted(self._table.runs(first, last), key=lambda run: run[1:]):
                at = (run.at - first) * width
                self._put(run, block[at : at + run.length * width])
            self._block = number, block
        return self._block[1]

    def _put(self, run: Run, into: memoryview) -> None:
        if run.part == ZERO:
            return
        if run.part == MEAN:
            into[:] = self._mean_of(run.row)
            return
        part = self._parts[run.part]
        if part.dtype == self.dtype:
            part.read(run.row * self._columns, (run.row + run.length) * self._columns, into)
            return
        from mergebuild.kernels.rows import as_float32

        into[:] = as_float32(self._raw(part, run.row, run.length), part.dtype)

    def _mean_of(self, group: int) -> memoryview:
        """The mean of a group; kept, since rows that mean nothing all have the same."""
        if self._mean[0] != group:
            from mergebuild.kernels.rows import Mean

            mean = Mean(self._columns)
            for run in self._table.group(group):
                part = self._parts[run.part]
                for row in range(run.row, run.row + run.length, self._rows):
                    count = min(self._rows, run.row + run.length - row)
                    mean.add(self._raw(part, row, count), part.dtype)
            self._mean = group, mean.value()
        return self._mean[1]

    def _raw(self, part: Operand, row: int, count: int) -> bytearray:
        raw = bytearray(count * self._columns * part.itemsize)
        part.read(row * self._columns, (row + count) * self._columns, memoryview(raw))
        return raw
