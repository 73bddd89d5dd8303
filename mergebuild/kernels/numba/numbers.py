"""Numbers between their dtype in a file and float32 or float64, a tile at a time.

A tile is a run of elements short enough to stay in the innermost cache between loops. Buffers are
bytes; a dtype is a code. NaN becomes the one quiet positive NaN when it is written.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mergebuild.kernels.numba.jit import jit

TILE: Final = 4096
"""Elements; the tiles of three operands, their sum and their signs take 40 KiB."""

BFLOAT16, FLOAT16, FLOAT32, FLOAT64 = 0, 1, 2, 3
CODES: Final = {"bfloat16": BFLOAT16, "float16": FLOAT16, "float32": FLOAT32, "float64": FLOAT64}

_EXPAND_HALF = np.float32(2.0**112)  # moves float16's exponents to float32's
_SMALL_HALF = np.float32(0.5)  # whose unit in the last place is float16's smallest number


@jit
def load(raw: Any, code: int, start: int, count: int, into: Any) -> None:
    """Decode `count` elements of a byte buffer from element `start` on to float32."""
    if code == BFLOAT16:
        shorts = raw.view(np.uint16)[start : start + count]
        words = into.view(np.uint32)
        for j in range(count):
            words[j] = np.uint32(shorts[j]) << np.uint32(16)
    elif code == FLOAT16:
        shorts = raw.view(np.uint16)[start : start + count]
        words = into.view(np.uint32)
        for j in range(count):
            short = np.uint32(shorts[j])
            shifted = np.uint32((short & np.uint32(0x7FFF)) << np.uint32(13))
            value = np.float32(shifted.view(np.float32) * _EXPAND_HALF)
            word = value.view(np.uint32)
            if shifted >= np.uint32(0x0F800000):  # infinite or NaN
                word |= np.uint32(0x7F800000)
            words[j] = word | (np.uint32(short & np.uint32(0x8000)) << np.uint32(16))
    elif code == FLOAT32:
        floats = raw.view(np.float32)[start : start + count]
        for j in range(count):
            into[j] = floats[j]
    else:
        doubles = raw.view(np.float64)[start : start + count]
        for j in range(count):
            into[j] = np.float32(doubles[j])


@jit
def subtract(values: Any, base: Any, count: int) -> None:
    """A delta in place: x - b, rounded."""
    for j in range(count):
        values[j] = values[j] - base[j]


@jit
def load_less(raw: Any, code: int, start: int, count: int, base: Any, into: Any) -> None:
    """Decode as `load` does and take away the base, rounded, at once where the dtype is simple."""
    if code == BFLOAT16:
        shorts = raw.view(np.uint16)[start : start + count]
        for j in range(count):
            word = np.uint32(np.uint32(shorts[j]) << np.uint32(16))
            into[j] = word.view(np.float32) - base[j]
    elif code == FLOAT32:
        floats = raw.view(np.float32)[start : start + count]
        for j in range(count):
            into[j] = floats[j] - base[j]
    else:
        load(raw, code, start, count, into)
        subtract(into, base, count)


@jit
def load_vector(
    raw: Any, codes: Any, i: int, deltas: bool, start: int, count: int, base: Any, into: Any
) -> None:
    """Vector i: an operand, or the delta of the operand after it, whose base tile is given."""
    if deltas:
        load_less(raw[i + 1], codes[i + 1], start, count, base, into)
    else:
        load(raw[i], codes[i], start, count, into)


@jit
def load_delta(
    raw: Any, codes: Any, delta: int, start: int, count: int, base: Any, into: Any
) -> None:
    """One delta, where no other needs the base tile, which is scratch."""
    if codes[0] == BFLOAT16 and codes[delta + 1] == BFLOAT16:
        first = raw[0].view(np.uint16)[start : start + count]
        other = raw[delta + 1].view(np.uint16)[start : start + count]
        for j in range(count):
            x = np.uint32(np.uint32(other[j]) << np.uint32(16))
            b = np.uint32(np.uint32(first[j]) << np.uint32(16))
            into[j] = x.view(np.float32) - b.view(np.float32)
    else:
        load(raw[0], codes[0], start, count, base)
        load_vector(raw, codes, delta, True, start, count, base, into)


@jit
def store(values: Any, count: int, raw: Any, code: int, start: int) -> Any:
    """Encode float32 values to elements from `start` on; count the finite ones that became
    infinite. Rounds to nearest, ties to even."""
    lost: Any = 0
    words = values.view(np.uint32)
    if code == BFLOAT16:
        shorts = raw.view(np.uint16)[start : start + count]
        for j in range(count):
            word = words[j]
            size = np.uint32(word & np.uint32(0x7FFFFFFF))
            odd = np.uint32((word >> np.uint32(16)) & np.uint32(1))
            short = np.uint32(np.uint32(word + np.uint32(0x7FFF) + odd) >> np.uint32(16))
            shorts[j] = np.uint16(0x7FC0 if size > np.uint32(0x7F800000) else short)
            lost += (size >= np.uint32(0x7F7F8000)) & (size < np.uint32(0x7F800000))
    elif code == FLOAT16:
        shorts = raw.view(np.uint16)[start : start + count]
        for j in range(count):
            size = np.uint32(words[j] & np.uint32(0x7FFFFFFF))
            sign = np.uint32(np.uint32(words[j] >> np.uint32(16)) & np.uint32(0x8000))
            odd = np.uint32((size >> np.uint32(13)) & np.uint32(1))
            normal = np.uint32(np.uint32(size - np.uint32(0x37FFF001) + odd) >> np.uint32(13))
            shifted = np.float32(size.view(np.float32) + _SMALL_HALF)
            small = np.uint32(shifted.view(np.uint32) - np.uint32(0x3F000000))
            short = small if size < np.uint32(0x38800000) else normal
            short = np.uint32(0x7C00) if size >= np.uint32(0x477FF000) else short
            short = np.uint32(short | sign)
            shorts[j] = np.uint16(0x7E00 if size > np.uint32(0x7F800000) else short)
            lost += (size >= np.uint32(0x477FF000)) & (size < np.uint32(0x7F800000))
    elif code == FLOAT32:
        copies = raw.view(np.uint32)[start : start + count]
        for j in range(count):
            size = np.uint32(words[j] & np.uint32(0x7FFFFFFF))
            copies[j] = np.uint32(0x7FC00000) if size > np.uint32(0x7F800000) else words[j]
    else:
        doubles = raw.view(np.float64)[start : start + count]
        for j in range(count):
            doubles[j] = np.float64(values[j]) if values[j] == values[j] else np.nan
    return lost


@jit
def nonfinite(raw: Any, code: int, count: int) -> Any:
    """How many of the first elements are NaN or infinite, as float32."""
    found: Any = 0
    if code in (BFLOAT16, FLOAT16):
        mask = np.uint16(0x7F80 if code == BFLOAT16 else 0x7C00)
        shorts = raw.view(np.uint16)[:count]
        for first in range(0, count, TILE):
            part = shorts[first : first + TILE]
            inside = np.uint16(0)
            for j in range(len(part)):
                inside = np.uint16(inside + np.uint16(np.uint16(part[j] & mask) == mask))
            found += inside
    elif code == FLOAT32:
        words = raw.view(np.uint32)[:count]
        for j in range(count):
            found += (words[j] & np.uint32(0x7F800000)) == np.uint32(0x7F800000)
    else:
        doubles = raw.view(np.float64)[:count]
        for j in range(count):
            word = np.float32(doubles[j]).view(np.uint32)
            found += (word & np.uint32(0x7F800000)) == np.uint32(0x7F800000)
    return found


def rounded(values: Any) -> NDArray[np.float32]:
    """Coefficients, once to float32; too large ones become infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float64).astype(np.float32)
