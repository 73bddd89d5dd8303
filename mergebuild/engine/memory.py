"""Tensors that are read again in the same build, kept in memory within a budget.

What does not fit is read from where it was written. Knows sizes and places; no nodes and no files.
"""

from __future__ import annotations

import mmap
from collections.abc import Hashable
from dataclasses import dataclass
from math import prod
from threading import Lock
from typing import Final

from mergebuild.checkpoint.dtypes import itemsize

BUDGET: Final = 256 << 20
"""Bytes. Embeddings of 32,000 by 4,096 in bfloat16 fill it; most tensors are far smaller."""
_ALIGNED: Final = 4096


@dataclass(frozen=True, slots=True)
class Held:
    """Reads a tensor in memory; may be used as a `Reader` of one in a file."""

    content: memoryview
    dtype: str
    shape: tuple[int, ...]

    @property
    def itemsize(self) -> int:
        return itemsize(self.dtype)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.itemsize

    def read(self, start: int, stop: int, into: memoryview) -> None:
        """Raw bytes of the elements from `start` up to `stop`, filling `into` exactly."""
        item = self.itemsize
        if start < stop:
            into.cast("B")[:] = self.content[start * item : stop * item]


class Memory:
    """Hands out parts of one region, the lowest that fits first, so that no more is touched than
    has to be; from any thread; to be closed."""

    def __init__(self, budget: int = BUDGET) -> None:
        self._budget = budget
        self._lock = Lock()
        self._room: mmap.mmap | None = None
        self._used: dict[Hashable, tuple[int, int]] = {}

    def hold(self, what: Hashable, size: int) -> memoryview | None:
        """Room for so many bytes until `release`; None if there is none."""
        room = -(-size // _ALIGNED) * _ALIGNED
        with self._lock:
            if not 0 < room <= self._budget:
                return None
            start = 0
            for begin, end in sorted(self._used.values()):
                if begin - start >= room:
                    break
                start = end
            if start + room > self._budget:
                return None
            self._used[what] = start, start + room
            if self._room is None:
                self._room = mmap.mmap(-1, self._budget)
            return memoryview(self._room)[start : start + size]

    def get(self, what: Hashable, size: int) -> memoryview | None:
        """What is held, if it is."""
        with self._lock:
            if self._room is None or what not in self._used:
                return None
            start, _ = self._used[what]
            return memoryview(self._room)[start : start + size]

    def release(self, what: Hashable) -> None:
        """Nobody reads it again."""
        with self._lock:
            self._used.pop(what, None)

    def close(self) -> None:
        """Give the region back as soon as nobody looks at it any more."""
        with self._lock:
            self._used.clear()
            self._room = None
