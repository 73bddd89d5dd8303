"""One tensor's buffers: raw bytes in, float32 values and deltas to compute with, raw bytes out.

Knows no operation; `statistics` and `maps` do. On a GPU nothing here waits for it but `take`, for
one output, and the two that tell counts: while it works on a chunk the next is read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from mergebuild.kernels.interface import Gathering
from mergebuild.kernels.operations import BLOCK, Identity, Map, Of, Shape, Statistic
from mergebuild.kernels.torch.ring import Ring, Slot

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
        self._here = self.device.type == "cpu"
        self.lag = 0 if self._here else 1
        self._operands = [DTYPES[dtype] for dtype in operands]
        self._dtype = DTYPES[output]
        self._limit = TOO_LARGE.get(output)
        self._capacity = 0
        self._scratch: dict[tuple[int, torch.dtype], Tensor] = {}
        self._nonfinite = torch.zeros(len(operands), dtype=torch.int64, device=self.device)
        self._overflowed = torch.zeros((), dtype=torch.int64, device=self.device)
        self._untaken: deque[tuple[Slot, int]] = deque()

    @property
    def tile(self) -> int:
        """How many elements to work on at a time where that is free: what fits a CPU's cache, or
        all that there are, so that a GPU is asked for few and large things."""
        return BLOCK if self._here else max(BLOCK, self.count)

    def reserve(self, elements: int) -> None:
        if elements <= self._capacity:
            return
        self._capacity = elements
        self._scratch.clear()
        self._deltas: list[Tensor] | None = None
        self._coming = Ring(elements, self._operands, self.device)
        self._going = Ring(elements, [self._dtype], self.device)
        self._placed = self._coming.now
        self.inputs = self._coming.now.bytes
        self._raw = self._there(self._coming, elements, self._operands)
        self._wide = [
            raw if raw.dtype is torch.float32 else torch.empty(elements, device=self.device)
            for raw in self._raw
        ]
        (self._made,) = self._there(self._going, elements, [self._dtype])
        same = self._dtype is torch.float32
        self._result = self._made if same else torch.empty(elements, device=self.device)

    def _there(self, ring: Ring, elements: int, dtypes: Sequence[torch.dtype]) -> list[Tensor]:
        """On the device what the ring has in host memory; on the CPU the very same."""
        if self._here:
            return ring.now.tensors
        return [torch.empty(elements, dtype=kind, device=self.device) for kind in dtypes]

    def place(self, start: int, count: int) -> None:
        self.start, self.count = start, count
        self._placed, self._deltas = self._coming.now, None
        for raw, there, wide in zip(self._placed.tensors, self._raw, self._wide, strict=True):
            if there is not raw:
                there[:count].copy_(raw[:count], non_blocking=True)
            if wide is not there:
                wide[:count].copy_(there[:count])
        self._coming.turn()
        self.inputs = self._coming.now.bytes

    def inspect(self) -> None:
        values = self.vectors("inputs")
        if self._here and all(map(_finite, values)):
            return
        self._nonfinite += torch.stack([torch.count_nonzero(~v.isfinite()) for v in values])

    def nonfinite(self) -> tuple[int, ...]:
        return tuple(self._nonfinite.cpu().tolist())

    def begin(self, statistic: Statistic) -> Gathering:
        from mergebuild.kernels.torch.dispatch import gather

        return gather(statistic, self)

    def apply(self, operation: Map) -> None:
        from mergebuild.kernels.torch.dispatch import write

        slot = self._going.now
        out = slot.tensors[0][: self.count]
        if isinstance(operation, Identity) and self._operands[operation.operand] is self._dtype:
            out.copy_(self._placed.tensors[operation.operand][: self.count])
        else:
            result, made = self._result[: self.count], self._made[: self.count]
            write(operation, self, result)
            self._count_overflowed(result)
            if self._made is not self._result:
                made.copy_(result)
            if not self._here:
                out.copy_(made, non_blocking=True)
        self._untaken.append((slot, self.count))
        self._going.turn()

    def take(self, into: memoryview) -> None:
        slot, count = self._untaken.popleft()
        slot.wait()
        into[:] = slot.bytes[0][: count * self._dtype.itemsize]

    def overflowed(self) -> int:
        return int(self._overflowed.cpu())

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

    def _count_overflowed(self, values: Tensor) -> None:
        limit = self._limit
        if limit is None:
            return
        if self._here:
            low, high = torch.aminmax(values)
            if -limit < low.item() and high.item() < limit:
                return
        self._overflowed += torch.count_nonzero((values.abs() >= limit) & values.isfinite())


def _finite(values: Tensor) -> bool:
    low, high = torch.aminmax(values)  # either is NaN if any value is
    return bool(torch.isfinite(low)) and bool(torch.isfinite(high))
