"""Which elements of a tensor are looked at before all are read."""

from __future__ import annotations

import math
from typing import Final

from mergebuild.kernels import random

PIECE: Final = 256
"""Elements of a piece; few enough that neighbours, which are alike, are not most of the sample."""

_PIECES: Final = 64
_STREAM: Final = 0x9E3779B9, 0x7F4A7C15


def whole(elements: int) -> bool:
    """Whether the sample is all that there is."""
    return elements <= _PIECES * PIECE


def pieces(elements: int) -> tuple[tuple[int, int], ...]:
    """Where the pieces begin and end, ascending: one in every part of the tensor, at a place in it
    that is drawn, as places at equal distances would fall on the same columns of every row."""
    if whole(elements):
        return ((0, elements),)
    count = max(_PIECES, math.isqrt(elements) // 16)
    found = []
    for number in range(count):
        first, last = number * elements // count, (number + 1) * elements // count
        start = first + (random.word(_STREAM, number) * (last - first - PIECE + 1) >> 32)
        found.append((start, start + PIECE))
    return tuple(found)
