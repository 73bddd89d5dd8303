"""Reading tensors of a source that lie in no file, but follow from some that do.

Views that are evaluated where they are read, by blocks of rows: nothing of them is written, and
memory stays that of a block and of what goes with every row (the two factors of a LoRA, the scales
of a quantised weight). Knows no methods and no nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from math import prod
from threading import Lock
from typing import TypeAlias

from mergebuild.checkpoint.header import TensorInfo
from mergebuild.checkpoint.lora import DTYPE, Derived, LowRank
from mergebuild.checkpoint.reader import Files, Reader
from mergebuild.checkpoint.scaled import Scaled
from mergebuild.engine.blocks import BlockReader, Operand

Evaluate: TypeAlias = "Callable[[bytearray, str, int, int], memoryview]"
"""From the raw bytes of some rows, their dtype, the first row's number and how many there are, to
the same rows of the derived tensor as raw float32."""


class DerivedReader(BlockReader):
    """One derived tensor, as float32.

    `weight` is what it follows from row by row, [rows, columns] whatever its shape.
    """

    def __init__(
        self, weight: Operand, evaluate: Evaluate, columns: int, rows_of_block: int
    ) -> None:
        super().__init__(DTYPE, weight.shape, columns, rows_of_block)
        self._weight = weight
        self._evaluate = evaluate

    def evaluate(self, first: int, last: int) -> memoryview:
        start, stop = first * self._columns, last * self._columns
        raw = bytearray((stop - start) * self._weight.itemsize)
        self._weight.read(start, stop, memoryview(raw))
        return self._evaluate(raw, self._weight.dtype, first, last - first)


class Derivations:
    """Hands out readers of derived tensors, from any thread; to be closed.

    Keeps torch to one thread meanwhile: a product's bits must not depend on how many there are.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._lock = Lock()
        self._kept: ExitStack | None = None

    def reader(self, tensor: Derived) -> DerivedReader:
        """Raises CheckpointError if a file cannot be opened or read."""
        from mergebuild.kernels.torch import single_threaded

        with self._lock:
            if self._kept is None:
                self._kept = ExitStack()
                self._kept.enter_context(single_threaded())
        return self._scaled(tensor) if isinstance(tensor, Scaled) else self._low_rank(tensor)

    def close(self) -> None:
        with self._lock:
            if self._kept is not None:
                self._kept.close()
                self._kept = None

    def _low_rank(self, tensor: LowRank) -> DerivedReader:
        from mergebuild.kernels.torch.lowrank import LowRankSum, rows_of_block

        a, b = self._factor(tensor.a), self._factor(tensor.b)
        left, right = (a, b) if tensor.transposed else (b, a)
        sums = LowRankSum(left, right, tensor.scale, transposed=tensor.transposed)
        own = tensor.weight
        weight = self._scaled(own) if isinstance(own, Scaled) else self._open(own)
        columns = prod(weight.shape[1:])
        return DerivedReader(weight, sums.add, columns, rows_of_block(columns))

    def _scaled(self, tensor: Scaled) -> DerivedReader:
        from mergebuild.kernels.torch.scaled import BlockScale, rows_of_block

        shape = tensor.shape or (1,)
        scale = None
        if tensor.scale is not None:
            scale = self._read(tensor.scale), tensor.scale.dtype
        scales = BlockScale(shape, scale, tensor.blocks or (1,) * len(shape))
        return DerivedReader(
            self._open(tensor.weight), scales.apply, shape[-1], rows_of_block(shape[-1])
        )

    def _factor(self, tensor: TensorInfo) -> tuple[bytearray, str, tuple[int, int]]:
        return self._read(tensor), tensor.dtype, (tensor.shape[0], prod(tensor.shape[1:]))

    def _read(self, tensor: TensorInfo) -> bytearray:
        raw = bytearray(tensor.nbytes)
        reader = self._open(tensor)
        reader.read(0, reader.count, memoryview(raw))
        return raw

    def _open(self, tensor: TensorInfo) -> Reader:
        return self._files.reader(
            tensor.file, tensor.offset, tensor.dtype, tensor.shape, tensor.name
        )
