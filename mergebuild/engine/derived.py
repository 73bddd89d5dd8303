"""Reading tensors of a source that lie in no file, but follow from some that do.

A view that is evaluated where it is read, by blocks of rows: nothing of it is written, and memory
stays that of a block and of the adapter's two factors. Knows no methods and no nodes.
"""

from __future__ import annotations

from contextlib import ExitStack
from math import prod
from threading import Lock
from typing import TYPE_CHECKING

from mergebuild.checkpoint.dtypes import itemsize
from mergebuild.checkpoint.header import TensorInfo
from mergebuild.checkpoint.lora import DTYPE, LowRank
from mergebuild.checkpoint.reader import Files, Reader

if TYPE_CHECKING:
    from mergebuild.kernels.torch.lowrank import LowRankSum


class DerivedReader:
    """One derived tensor, as float32. For one thread; ascending reads evaluate each block once."""

    def __init__(self, weight: Reader, sums: LowRankSum, rows_of_block: int) -> None:
        self.dtype = DTYPE
        self.shape = weight.shape
        self._weight = weight
        self._sums = sums
        self._rows = rows_of_block
        self._columns = prod(weight.shape[1:])
        self._block: tuple[int, memoryview] = -1, memoryview(b"")

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * itemsize(DTYPE)

    def read(self, start: int, stop: int, into: memoryview) -> None:
        """Raw float32 of the elements from `start` up to `stop`, filling `into` exactly.

        Raises CheckpointError if a file ends too early or cannot be read.
        """
        item = itemsize(DTYPE)
        if not 0 <= start <= stop <= prod(self.shape) or into.nbytes != (stop - start) * item:
            raise ValueError(f"[{start}, {stop}) of {prod(self.shape)} into {into.nbytes} bytes")
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
            rows = min(self._rows, self.shape[0] - first)
            start, stop = first * self._columns, (first + rows) * self._columns
            raw = bytearray((stop - start) * self._weight.itemsize)
            self._weight.read(start, stop, memoryview(raw))
            self._block = number, self._sums.add(raw, self._weight.dtype, first, rows)
        return self._block[1]


class Derivations:
    """Hands out readers of derived tensors, from any thread; to be closed.

    Keeps torch to one thread meanwhile: a product's bits must not depend on how many there are.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._lock = Lock()
        self._kept: ExitStack | None = None

    def reader(self, tensor: LowRank) -> DerivedReader:
        """Raises CheckpointError if a file cannot be opened or read."""
        from mergebuild.kernels.torch import single_threaded
        from mergebuild.kernels.torch.lowrank import LowRankSum, rows_of_block

        with self._lock:
            if self._kept is None:
                self._kept = ExitStack()
                self._kept.enter_context(single_threaded())
        a, b = self._factor(tensor.a), self._factor(tensor.b)
        left, right = (a, b) if tensor.transposed else (b, a)
        sums = LowRankSum(left, right, tensor.scale, transposed=tensor.transposed)
        weight = self._open(tensor.weight)
        return DerivedReader(weight, sums, rows_of_block(prod(weight.shape[1:])))

    def close(self) -> None:
        with self._lock:
            if self._kept is not None:
                self._kept.close()
                self._kept = None

    def _factor(self, tensor: TensorInfo) -> tuple[bytearray, str, tuple[int, int]]:
        raw = bytearray(tensor.nbytes)
        reader = self._open(tensor)
        reader.read(0, reader.count, memoryview(raw))
        return raw, tensor.dtype, (tensor.shape[0], prod(tensor.shape[1:]))

    def _open(self, tensor: TensorInfo) -> Reader:
        return self._files.reader(
            tensor.file, tensor.offset, tensor.dtype, tensor.shape, tensor.name
        )
