"""Counting keys below a bracket and at its ends, and keeping those between, a tile at a time."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels.numba.jit import jit
from mergebuild.kernels.numba.numbers import TILE, load, load_vector

_SIZE: Final = np.uint32(0x7FFFFFFF)
_ONE: Final = np.uint32(1)
_BYTES: Final = np.uint64(0x0101010101010101)


@jit
def magnitudes(raw: Any, codes: Any, delta: int, count: int, floats: Any, into: Any) -> None:
    """The keys of a delta's magnitudes, uint32. Scratch: float32 (2, TILE)."""
    base, values = floats[0], floats[1]
    words = values.view(np.uint32)
    for start in range(0, count, TILE):
        part = min(TILE, count - start)
        load(raw[0], codes[0], start, part, base)
        load_vector(raw, codes, delta, True, start, part, base, values)
        for j in range(part):
            into[start + j] = words[j] & _SIZE


@jit
def bracket_magnitudes(
    raw: Any,
    codes: Any,
    deltas: Any,
    ends: Any,
    bounds: Any,
    rooms: Any,
    count: int,
    floats: Any,
    flags: Any,
    counts: Any,
    between: Any,
) -> None:
    """`bracket` of the magnitudes of some deltas, int64; their brackets stand one after the other,
    those of the i-th up to `ends[i]`.

    Scratch: float32 (2, TILE), and as `bracket`.
    """
    base, values = floats[0], floats[1]
    keys = values.view(np.uint32)
    for start in range(0, count, TILE):
        part = min(TILE, count - start)
        load(raw[0], codes[0], start, part, base)
        first = 0
        for i in range(len(deltas)):
            load_vector(raw, codes, deltas[i], True, start, part, base, values)
            for j in range(part):
                keys[j] = keys[j] & _SIZE
            for b in range(first, ends[i]):
                bracket(keys, part, bounds[b], flags, counts[b], rooms[b], between[b])
            first = ends[i]


@jit
def bracket(
    keys: Any, count: int, bounds: Any, flags: Any, counts: Any, room: int, between: Any
) -> None:
    """Add a tile of keys to `counts`, int64 (4): below, at the low end, at the high end, and how
    many are kept in `between`, uint32 (room + TILE); more than `room` says that some are missing.

    `bounds` are the ends, uint32 (2). Scratch `flags`: uint8 (TILE).
    """
    low, high = bounds[0], bounds[1]
    after = np.uint32(low + _ONE)
    width = np.uint32(high - after) if high > low else np.uint32(0)
    below = at_low = at_high = np.uint32(0)
    for j in range(count):
        key = keys[j]
        below = np.uint32(below + np.uint32(key < low))
        at_low = np.uint32(at_low + np.uint32(key == low))
        at_high = np.uint32(at_high + np.uint32(key == high))
        flags[j] = np.uint8(np.uint32(key - after) < width)
    counts[0] += below
    counts[1] += at_low
    counts[2] += at_high
    if counts[3] <= room:
        counts[3] = keep(keys, count, flags, counts[3], between)


@jit
def keep(keys: Any, count: int, flags: Any, found: Any, between: Any) -> Any:
    """Append the keys that are flagged, by the lowest byte that is set in every eight of them."""
    flags[count : -(-count // 8) * 8] = 0
    eights = flags.view(np.uint64)
    for first in range(0, count, 8):
        eight = eights[first // 8]
        while eight != np.uint64(0):
            zeros = np.uint64((eight & (~eight + np.uint64(1))) - np.uint64(1))
            place = np.uint64(np.uint64((zeros & _BYTES) * _BYTES) >> np.uint64(56))
            between[found] = keys[first + np.int64(place)]
            found += 1
            eight = np.uint64(eight & np.uint64(eight - np.uint64(1)))
    return found
