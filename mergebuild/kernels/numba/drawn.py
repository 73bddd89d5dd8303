"""Masks that one pass has drawn, kept for the next: one bit an element."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from mergebuild.kernels.operations import Mask

ROOM: Final = 32 * 2**20
"""Bytes for all masks of a tensor; what is beyond is drawn again."""


class Drawn:
    """The masks of one tensor's deltas, a run of elements at a time."""

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._found: dict[tuple[int, Mask, int, int], NDArray[np.uint8]] = {}

    def put(self, delta: int, mask: Mask, start: int, kept: NDArray[np.uint8]) -> None:
        """Keep the zeros and ones of the elements from `start` on if there is room."""
        size = -(-len(kept) // 8)
        if size <= self._room:
            self._room -= size
            self._found[delta, mask, start, len(kept)] = np.packbits(kept)

    def get(self, delta: int, mask: Mask, start: int, count: int) -> NDArray[np.uint8] | None:
        """The zeros and ones of `count` elements from `start` on if they were kept."""
        found = self._found.get((delta, mask, start, count))
        return None if found is None else np.unpackbits(found, count=count)
