"""Rows as float32, and means of rows: sums in float64 in the order given, rounded once.

Knows no files and no vocabularies.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def as_float32(raw: bytearray | memoryview, dtype: str) -> memoryview:
    """Raw bytes of a floating dtype as raw float32; float64 is rounded."""
    return _bytes(_values(raw, dtype).astype(np.float32))


class Mean:
    """The mean of rows of `columns` elements each."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._total = np.zeros(columns, np.float64)
        self._count = 0

    def add(self, raw: bytearray | memoryview, dtype: str) -> None:
        """Take in whole rows, as raw bytes."""
        rows = _values(raw, dtype).reshape(-1, self._columns)
        for row in rows:
            self._total += row
        self._count += len(rows)

    def value(self) -> memoryview:
        """As raw float32."""
        return _bytes((self._total / self._count).astype(np.float32))


def _values(raw: bytearray | memoryview, dtype: str) -> Any:
    if dtype == "bfloat16":
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, np.dtype(dtype))


def _bytes(values: Any) -> memoryview:
    return memoryview(values).cast("B") if values.size else memoryview(b"")
