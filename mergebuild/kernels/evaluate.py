"""Drives one method over one tensor, a chunk at a time: statistics passes, then the map.

Owns the walk over the elements; what happens to a chunk is the kernels' affair. Scratch is
O(chunk); a tensor that fits into one chunk is read once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from mergebuild.kernels.interface import Kernels
from mergebuild.kernels.operations import BLOCK, Map, Report, Statistic, Steps

CHUNK: Final = 2 * BLOCK
SIZES: Final = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}


class Reader(Protocol):
    """One operand."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self, start: int, stop: int, into: memoryview) -> None:
        """Put elements [start, stop), row-major, raw, into a buffer of just that size."""


class Writer(Protocol):
    """Where the output goes."""

    def room(self, start: int, size: int) -> memoryview:
        """Where to put the next `size` bytes, from element `start` on, to be passed to `write`."""

    def write(self, start: int, data: memoryview) -> None:
        """Take raw bytes of the output from element `start` on; `data` is not touched after."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was noticed on the way.

    `nonfinite` counts NaN and infinite values per operand, `overflowed` the finite results that
    became infinite by the rounding to the output dtype; `reports` are the method's own.
    """

    nonfinite: tuple[int, ...]
    overflowed: int
    reports: tuple[str, ...] = ()


def evaluate(
    steps: Steps,
    readers: Sequence[Reader],
    writer: Writer,
    dtype: str,
    *,
    chunk: int = CHUNK,
    kernels: Kernels,
) -> Outcome:
    """Run a method over operands of one shape and write the result in `dtype`.

    `chunk` is in elements, a multiple of `BLOCK`; the result does not depend on it. Writes come
    in ascending order and without gaps; an empty tensor gets none.
    """
    if chunk <= 0 or chunk % BLOCK:
        raise ValueError(f"chunk is {chunk}, not a positive multiple of {BLOCK}")
    shape = tuple(readers[0].shape)
    if any(tuple(reader.shape) != shape for reader in readers):
        raise ValueError(f"shapes differ: {[tuple(reader.shape) for reader in readers]}")
    if 0 in shape:
        steps.close()
        return Outcome((0,) * len(readers), 0)
    walk = _Walk(readers, shape, dtype, chunk, kernels)
    value: Any = None
    reports: list[str] = []
    while True:
        try:
            request = steps.send(value)
        except StopIteration as stop:
            overflowed = walk.map(stop.value, writer)
            return Outcome(walk.nonfinite or (), overflowed, tuple(reports))
        if isinstance(request, Report):
            reports.append(request.text)
            value = None
        else:
            value = walk.gather(request)


class _Walk:
    """Passes over one tensor, and what they share: the bench and the first look at the values."""

    def __init__(
        self,
        readers: Sequence[Reader],
        shape: tuple[int, ...],
        dtype: str,
        chunk: int,
        kernels: Kernels,
    ) -> None:
        self.nonfinite: tuple[int, ...] | None = None
        self._readers = readers
        self._sizes = [SIZES[reader.dtype] for reader in readers]
        self._size = SIZES[dtype]
        self._shape = shape
        self._chunk = chunk
        self._resident = False
        self._bench = kernels.bench(shape, [reader.dtype for reader in readers], dtype)

    def gather(self, statistic: Statistic) -> Any:
        gathering = self._bench.begin(statistic)
        for _ in self._chunks(statistic.grain(self._shape)):
            gathering.add()
        return gathering.value()

    def map(self, operation: Map, writer: Writer) -> int:
        waiting: deque[tuple[int, int]] = deque()
        for start, stop in self._chunks(operation.grain(self._shape)):
            self._bench.apply(operation)
            waiting.append((start, stop))
            if len(waiting) > self._bench.lag:
                self._take(*waiting.popleft(), writer)
        for start, stop in waiting:
            self._take(start, stop, writer)
        return self._bench.overflowed()

    def _take(self, start: int, stop: int, writer: Writer) -> None:
        room = writer.room(start, (stop - start) * self._size)
        self._bench.take(room)
        writer.write(start, room)

    def _chunks(self, grain: int) -> Iterator[tuple[int, int]]:
        """Put one chunk after the other on the bench and tell which elements it holds."""
        elements = math.prod(self._shape)
        step = elements if elements <= self._chunk else max(1, self._chunk // grain) * grain
        if self._resident:
            yield 0, elements
            return
        first_pass = self.nonfinite is None
        self._bench.reserve(min(step, elements))
        for start in range(0, elements, step):
            stop = min(start + step, elements)
            self._read(start, stop)
            if first_pass:
                self._bench.inspect()
            yield start, stop
        self.nonfinite = self._bench.nonfinite()
        self._resident = elements <= self._chunk

    def _read(self, start: int, stop: int) -> None:
        for reader, size, buffer in zip(
            self._readers, self._sizes, self._bench.inputs, strict=True
        ):
            reader.read(start, stop, buffer[: (stop - start) * size])
        self._bench.place(start, stop - start)
