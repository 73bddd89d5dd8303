"""Extremes of magnitudes, and how often deltas are beyond a threshold, alone or with others."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels.numba.jit import jit
from mergebuild.kernels.numba.numbers import TILE, load, load_vector
from mergebuild.kernels.numba.values import load_deltas

_SIZE: Final = np.uint32(0x7FFFFFFF)
_ONE: Final = np.float32(1.0)
_ZERO: Final = np.float32(0.0)


@jit
def extremes(raw: Any, codes: Any, count: int, floats: Any, found: Any) -> None:
    """Widen `found`, uint32 (deltas, 2): the bits of the least and the largest magnitude, which
    order as the magnitudes do, NaN above all. Scratch: float32 (2, TILE)."""
    base, values = floats[0], floats[1]
    words = values.view(np.uint32)
    for start in range(0, count, TILE):
        part = min(TILE, count - start)
        load(raw[0], codes[0], start, part, base)
        for i in range(len(found)):
            load_vector(raw, codes, i, True, start, part, base, values)
            low, high = found[i, 0], found[i, 1]
            for j in range(part):
                size = np.uint32(words[j] & _SIZE)
                low = min(low, size)
                high = max(high, size)
            found[i, 0], found[i, 1] = low, high


@jit
def overlaps(raw: Any, codes: Any, threshold: Any, count: int, floats: Any, found: Any) -> None:
    """Add to `found`, int64 (deltas, 2), how often each is beyond, and how often alone.

    Scratch: float32 (2 + deltas, TILE).
    """
    base, many, deltas = floats[0], floats[1], floats[2:]
    for start in range(0, count, TILE):
        part = min(TILE, count - start)
        load_deltas(raw, codes, start, part, base, deltas)
        for i in range(len(deltas)):
            delta = deltas[i]
            for j in range(part):
                beyond = _ONE if abs(delta[j]) > threshold else _ZERO
                delta[j] = beyond
                many[j] = beyond if i == 0 else many[j] + beyond
        for i in range(len(deltas)):
            delta = deltas[i]
            there = alone = np.uint32(0)
            for j in range(part):
                here = np.uint32(delta[j] == _ONE)
                there = np.uint32(there + here)
                alone = np.uint32(alone + np.uint32(here & np.uint32(many[j] == _ONE)))
            found[i, 0] += there
            found[i, 1] += alone
