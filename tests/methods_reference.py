"""How to run a method in memory, and which formulas to hold it against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mergebuild.kernels import BLOCK, Outcome, evaluate
from mergebuild.kernels.torch import TorchKernels
from mergebuild.methods import registry
from mergebuild.methods.declaration import REQUIRED, Arguments, Method, Operands, Scope
from tests import methods_formulas, methods_formulas_places
from tests.methods_formulas import STREAMS, Result, hash_words

KERNELS = TorchKernels()


@dataclass
class Memory:
    """A tensor to read from or to write to; notes what was asked for."""

    tensor: Tensor
    calls: list[tuple[int, int]] = field(default_factory=list)

    @property
    def dtype(self) -> str:
        return str(self.tensor.dtype).removeprefix("torch.")

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def _bytes(self, start: int, stop: int) -> memoryview:
        size = self.tensor.element_size()
        flat: memoryview = raw(self.tensor).data
        return flat[start * size : stop * size]

    def read(self, start: int, stop: int, into: memoryview) -> None:
        self.calls.append((start, stop))
        into[:] = self._bytes(start, stop)

    @property
    def unit(self) -> int:
        return 1

    def part(self, start: int) -> Memory:
        return self

    def flush(self) -> None:
        pass

    def room(self, start: int, size: int) -> memoryview:
        first = start * self.tensor.element_size()
        flat: memoryview = raw(self.tensor).data
        return flat[first : first + size]

    def write(self, start: int, data: memoryview) -> None:
        stop = start + len(data) // self.tensor.element_size()
        self.calls.append((start, stop))
        self._bytes(start, stop)[:] = data


def merge(
    name: str,
    tensors: Sequence[Tensor],
    *,
    base: bool | None = None,
    dtype: torch.dtype | None = None,
    chunk: int = BLOCK,
    streams: Sequence[tuple[int, int]] = STREAMS,
    arguments: Arguments,
) -> tuple[Tensor, Outcome]:
    """Stream a method over tensors; the base stands first where the method requires one."""
    method = registry()[name]
    has_base = method.base == "required" if base is None else base
    output = torch.empty(tensors[0].shape, dtype=dtype or tensors[0].dtype)
    operands = Operands(len(tensors), has_base, tuple(output.shape), tuple(streams))
    writer = Memory(output)
    outcome = evaluate(
        method.run(operands, arguments),
        [Memory(tensor) for tensor in tensors],
        writer,
        writer.dtype,
        chunk=chunk,
        kernels=KERNELS,
    )
    return output, outcome


def example_arguments(method: Method, operands: Operands) -> dict[str, Any]:
    """Arguments for any method: defaults, and something moderate where there is none."""
    arguments: dict[str, Any] = {}
    for name, parameter in method.parameters.items():
        value = 0.5 if parameter.default is REQUIRED else parameter.default
        if parameter.scope is Scope.SHARED:
            arguments[name] = value
        else:
            count = operands.count if parameter.scope is Scope.INPUT else operands.deltas
            arguments[name] = (value,) * count
    return arguments


def bits(tensor: Tensor) -> bytes:
    return raw(tensor).tobytes()


def raw(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    flat = tensor.contiguous().reshape(-1)
    return np.asarray(flat.view(torch.uint8).numpy() if len(flat) else np.empty(0, np.uint8))


REFERENCES: dict[str, Callable[[Sequence[Tensor], bool, Arguments], Result]] = {
    name: getattr(module, name)
    for name in registry()
    for module in (methods_formulas, methods_formulas_places)
    if hasattr(module, name)
}

__all__ = [
    "KERNELS",
    "REFERENCES",
    "STREAMS",
    "Memory",
    "Result",
    "bits",
    "example_arguments",
    "hash_words",
    "merge",
    "raw",
]
