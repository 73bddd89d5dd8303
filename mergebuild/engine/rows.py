"""Reading a tensor whose rows were put into the order of another vocabulary.

A view that is evaluated where it is read, by blocks of rows: nothing of it is written, and memory
stays that of a block. Knows no tokens and no methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final

from mergebuild.engine.blocks import BlockReader, Operand
from mergebuild.vocabulary.rows import MEAN, ZERO, RowTable, Run

_BLOCK: Final = 1 << 18


class RowsReader(BlockReader):
    """Rows of `parts` as `table` says, in `dtype`: the parts' own, or float32.

    `shape` is that of the whole.
    """

    def __init__(
        self, parts: Sequence[Operand], table: RowTable, dtype: str, shape: tuple[int, ...]
    ) -> None:
        columns = prod(shape) // max(1, len(table))
        super().__init__(dtype, shape, columns, max(1, _BLOCK // max(1, columns)))
        self._parts = parts
        self._table = table
        self._mean: tuple[int, memoryview] = -1, memoryview(b"")

    def evaluate(self, first: int, last: int) -> memoryview:
        width = self._columns * self.itemsize
        block = memoryview(bytearray((last - first) * width))
        # In the parts' own order, so that what is evaluated by blocks itself is so once.
        for run in sorted(self._table.runs(first, last), key=lambda run: run[1:]):
            at = (run.at - first) * width
            self._put(run, block[at : at + run.length * width])
        return block

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
