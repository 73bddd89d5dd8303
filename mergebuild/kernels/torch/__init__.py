"""The operations in plain torch: the reference for every other implementation, and the way to GPUs.

bench, ring                        the buffers, and how bytes come to a device and back
statistics, maps, masks, sums      `operations`
place_statistics, place_maps, values   `places`
order_statistics                   `brackets`
matrices                           `matrices`
functions                          exp, tanh and ln, each step one operation
device                             whether there is a GPU, and what becomes of its failures
lowrank                            products of the factors of a LoRA, on the CPU
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from mergebuild.kernels.operations import Shape
from mergebuild.kernels.torch.bench import TorchBench


class TorchKernels:
    """Hands out benches that compute with torch on a device, by its name in torch.

    Apart from `WholeTensors` and `matrices` the bits do not depend on the device: every sum has one
    order, every step of a map or of exp, tanh and ln is one operation, rounded.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        self._threads = threading.local()

    def bench(self, shape: Shape, operands: Sequence[str], output: str) -> TorchBench:
        if torch.device(self._device).type == "cuda":
            self._enter_stream()
        return TorchBench(shape, operands, output, self._device)

    def _enter_stream(self) -> None:
        """Give the calling thread a stream of its own, so that what it asks of the GPU runs beside
        what other threads ask."""
        if not hasattr(self._threads, "stream"):
            stream: Any = torch.cuda.Stream  # carries no types
            self._threads.stream = stream(self._device)
            torch.cuda.set_stream(self._threads.stream)


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
