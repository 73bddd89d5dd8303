"""Raw bytes in host memory on their way to a device or from it, in buffers that take turns.

For a GPU they are pinned, so that copies run beside everything else, and there are two sets: one is
on its way while the other is filled or emptied. On the CPU nothing has to go anywhere, and there is
one. Knows no operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class Slot:
    """One buffer for each of some dtypes, and when the device was last through with them."""

    def __init__(self, elements: int, dtypes: Sequence[torch.dtype], device: torch.device) -> None:
        gpu = device.type == "cuda"
        self.tensors = [torch.empty(elements, dtype=kind, pin_memory=gpu) for kind in dtypes]
        self.bytes = [tensor.view(torch.uint8).numpy().data for tensor in self.tensors]
        event: Any = torch.cuda.Event  # carries no types
        self._through = event(blocking=True) if gpu else None

    def leave(self) -> None:
        """What was begun with the buffers up to here is all that `wait` waits for."""
        if self._through is not None:
            self._through.record()

    def wait(self) -> None:
        """Until the device neither reads nor writes the buffers."""
        if self._through is not None:
            self._through.synchronize()


class Ring:
    """Slots that take turns; `now` is the one whose turn it is."""

    def __init__(self, elements: int, dtypes: Sequence[torch.dtype], device: torch.device) -> None:
        count = 1 if device.type == "cpu" else 2
        self._slots = [Slot(elements, dtypes, device) for _ in range(count)]
        self.now = self._slots[0]

    def turn(self) -> None:
        """Go on to the next slot, as soon as the device is through with it."""
        self.now.leave()
        self._slots.append(self._slots.pop(0))
        self.now = self._slots[0]
        self.now.wait()
