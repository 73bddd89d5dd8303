"""One tensor's buffers, and which loop serves which operation; all else goes to another bench.

Knows the operations of this package's loops. An operation that it does not know is done by a
bench of the kernels to fall back on, over the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergebuild.kernels.interface import SIZES, Bench, Gathering
from mergebuild.kernels.numba.drawn import Drawn
from mergebuild.kernels.numba.maps import write
from mergebuild.kernels.numba.numbers import CODES, TILE, nonfinite
from mergebuild.kernels.numba.statistics import gather
from mergebuild.kernels.operations import Identity, Map, Shape, Statistic

_ALIGNED = 64


class NumbaBench:
    """Implements `interface.Bench`. `raw` are the operands' bytes, one a row."""

    def __init__(
        self,
        shape: Shape,
        operands: Sequence[str],
        output: str,
        other: Callable[[], Bench],
    ) -> None:
        self.shape = shape
        self.start = 0
        self.count = 0
        self.lag = 0
        self.drawn = Drawn()
        self.inputs: list[memoryview] = []
        self.codes = np.array([CODES[dtype] for dtype in operands], np.int64)
        self.code = CODES[output]
        self._operands = operands
        self._dtype = output
        self._capacity = 0
        self._nonfinite = [0] * len(operands)
        self._overflowed = 0
        self._new_other = other
        self._other: Bench | None = None
        self._scratch: dict[tuple[str, type[np.generic]], NDArray[Any]] = {}

    def reserve(self, elements: int) -> None:
        if elements <= self._capacity:
            return
        self._capacity = elements
        width = max(SIZES[dtype] for dtype in self._operands) * elements
        self.raw = _bytes(len(self._operands), width)
        self.inputs = [
            row[: SIZES[dtype] * elements].data
            for row, dtype in zip(self.raw, self._operands, strict=True)
        ]

    def place(self, start: int, count: int) -> None:
        self.start, self.count = start, count

    def inspect(self) -> None:
        for index, (row, code) in enumerate(zip(self.raw, self.codes, strict=True)):
            self._nonfinite[index] += int(nonfinite(row, code, self.count))

    def nonfinite(self) -> tuple[int, ...]:
        return tuple(self._nonfinite)

    def begin(self, statistic: Statistic) -> Gathering:
        return gather(statistic, self) or _Elsewhere(statistic, self)

    def apply(self, operation: Map) -> None:
        self._operation = operation

    def take(self, into: memoryview) -> None:
        out = np.frombuffer(into, np.uint8)
        askew = out.ctypes.data % SIZES[self._dtype] != 0  # after tensors of other dtypes in a file
        self.out = self.scratch("output", np.uint8, len(out)) if askew else out
        self._make()
        if askew:
            out[:] = self.out

    def _make(self) -> None:
        operation, size = self._operation, len(self.out)
        if isinstance(operation, Identity) and self.codes[operation.operand] == self.code:
            self.out[:] = self.raw[operation.operand, :size]
            return
        lost = write(operation, self)
        if lost is None:
            other = self.loaded()
            other.apply(operation)
            other.take(self.out.data)
        else:
            self._overflowed += lost

    def overflowed(self) -> int:
        elsewhere = self._other.overflowed() if self._other is not None else 0
        return self._overflowed + elsewhere

    def other(self) -> Bench:
        """The bench to fall back on."""
        if self._other is None:
            self._other = self._new_other()
        return self._other

    def loaded(self) -> Bench:
        """The bench to fall back on, with the same elements on it."""
        other = self.other()
        other.reserve(self._capacity)
        for mine, its, dtype in zip(self.inputs, other.inputs, self._operands, strict=True):
            size = self.count * SIZES[dtype]
            its[:size] = mine[:size]
        other.place(self.start, self.count)
        return other

    def floats(self, tiles: int) -> NDArray[np.float32]:
        """Scratch of float32 (tiles, TILE)."""
        return self.scratch("tiles", np.float32, tiles, TILE)

    def scratch(self, name: str, dtype: type[np.generic], *shape: int) -> NDArray[Any]:
        """A buffer that is kept, with whatever is in it, until one of another shape is wanted."""
        found = self._scratch.get((name, dtype))
        if found is None or found.shape != shape:
            found = self._scratch[name, dtype] = np.empty(shape, dtype)
        return found


class _Elsewhere:
    """A statistic that the bench to fall back on gathers."""

    def __init__(self, statistic: Statistic, bench: NumbaBench) -> None:
        self._bench = bench
        self._gathering = bench.other().begin(statistic)

    def add(self) -> None:
        self._bench.loaded()
        self._gathering.add()

    def value(self) -> Any:
        return self._gathering.value()


def _bytes(rows: int, width: int) -> NDArray[np.uint8]:
    """Rows that begin at multiples of a cache line."""
    stride = -(-width // _ALIGNED) * _ALIGNED
    room = np.empty(rows * stride + _ALIGNED, np.uint8)
    skip = -room.ctypes.data % _ALIGNED
    return room[skip : skip + rows * stride].reshape(rows, stride)
