"""One tensor's buffers: raw bytes in, float32 values and deltas to compute with, raw bytes out.

Knows no operation; `statistics` and `maps` do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from mergebuild.kernels.interface import Gathering
from mergebuild.kernels.operations import Identity, Map, Of, Shape, Statistic

DTYPES: Final = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}
# The least float32 magnitude that a dtype rounds to infinity: half a step above its largest value.
TOO_LARGE: Final = {"bfloat16": float.fromhex("0x1.ffp127"), "float16": 65520.0}


class TorchBench:
    """Implements `interface.Bench`. Values on it are float32 and never written to."""

    def __init__(
        self, shape: Shape, operands: Sequence[str], output: str, device: str = "cpu"
    ) -> None:
        self.shape = shape
        self.device = torch.device(device)
        self.start = 0
        self.count = 0
        self.inputs: list[memoryview] = []
        self.output = memoryview(b"")
        self._operands = operands
        self._dtype = output
        self._capacity = 0
        self._scratch: dict[tuple[int, torch.dtype], Tensor] = {}

    def reserve(self, elements: int) -> None:
        if elements <= self._capacity:
            return
        self._capacity = elements
        self._scratch.clear()
        raw = [np.empty(elements * DTYPES[dtype].itemsize, np.uint8) for dtype in self._operands]
        self.inputs = [buffer.data for buffer in raw]
        self._raw = [
            torch.from_numpy(buffer).view(DTYPES[dtype])
            for buffer, dtype in zip(raw, self._operands, strict=True)
        ]
        here = self.device.type == "cpu"
        self._wide = [
            typed
            if here and typed.dtype is torch.float32
            else torch.empty(elements, device=self.device)
            for typed in self._raw
        ]
        out = np.empty(elements * DTYPES[self._dtype].itemsize, np.uint8)
        self.output = out.data
        self._out = torch.from_numpy(out).view(DTYPES[self._dtype])
        aliased = here and self._dtype == "float32"
        self._result = self._out if aliased else torch.empty(elements, device=self.device)
        self._deltas: list[Tensor] | None = None

    def place(self, start: int, count: int) -> None:
        self.start, self.count = start, count
        for wide, raw in zip(self._wide, self._raw, strict=True):
            if wide is not raw:
                wide[:count].copy_(raw[:count])
        self._deltas = None

    def nonfinite(self) -> tuple[int, ...]:
        return tuple(_nonfinite(values) for values in self.vectors("inputs"))

    def begin(self, statistic: Statistic) -> Gathering:
        from mergebuild.kernels.torch.dispatch import gather

        return gather(statistic, self)

    def apply(self, operation: Map) -> int:
        from mergebuild.kernels.torch.dispatch import write

        if isinstance(operation, Identity) and self._operands[operation.operand] == self._dtype:
            self._out[: self.count] = self._raw[operation.operand][: self.count]
            return 0
        result = self._result[: self.count]
        write(operation, self, result)
        if self._result is not self._out:
            self._out[: self.count].copy_(result)
        return _too_large(result, TOO_LARGE.get(self._dtype))

    def vectors(self, of: Of) -> list[Tensor]:
        """The operands, or the deltas, of the elements on the bench."""
        inputs = [wide[: self.count] for wide in self._wide]
        if of == "inputs":
            return inputs
        if self._deltas is None:
            base = inputs[0]
            self._deltas = [
                torch.sub(x, base, out=self.scratch(index, torch.float32))
                for index, x in enumerate(inputs[1:])
            ]
        return self._deltas

    def scratch(self, slot: int, dtype: torch.dtype) -> Tensor:
        """A buffer as long as what is on the bench; float32 ones of slots ≥ 0 hold the deltas."""
        key = (slot, dtype)
        if key not in self._scratch:
            self._scratch[key] = torch.empty(self._capacity, dtype=dtype, device=self.device)
        return self._scratch[key][: self.count]


def _nonfinite(values: Tensor) -> int:
    low, high = torch.aminmax(values)  # either is NaN if any value is
    if torch.isfinite(low) and torch.isfinite(high):
        return 0
    return int(torch.count_nonzero(~torch.isfinite(values)))


def _too_large(values: Tensor, limit: float | None) -> int:
    if limit is None:
        return 0
    low, high = torch.aminmax(values)
    if -limit < low.item() and high.item() < limit:
        return 0
    return int(torch.count_nonzero((values.abs() >= limit) & torch.isfinite(values)))
