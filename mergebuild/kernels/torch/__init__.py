"""The operations in plain torch: the reference for every other implementation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from mergebuild.kernels.operations import Shape
from mergebuild.kernels.torch.bench import TorchBench


class TorchKernels:
    """Hands out benches that compute with torch on a device, by its name in torch.

    Apart from `WholeTensors` the bits do not depend on the device.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._device = device

    def bench(self, shape: Shape, operands: Sequence[str], output: str) -> TorchBench:
        return TorchBench(shape, operands, output, self._device)


@contextmanager
def single_threaded() -> Iterator[None]:
    """Keep torch from starting threads of its own where the caller's threads share the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


__all__ = ["TorchBench", "TorchKernels", "single_threaded"]
