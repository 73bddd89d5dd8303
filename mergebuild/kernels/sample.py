"""Which elements of a tensor are looked at first, and what they tell about an order statistic.

Nothing rests on the guess but time: whoever uses it can see whether it was right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from mergebuild.kernels import random
from mergebuild.kernels.brackets import Bracket, Bracketed, Keys

PIECE: Final = 256
"""Elements of a piece; few enough that neighbours, which are alike, are not most of the sample."""

_PIECES: Final = 64
_STREAM: Final = 0x9E3779B9, 0x7F4A7C15
_DEVIATIONS: Final = 4.0
_LEAST: Final = 8
_ROOM: Final = 2**22


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


def guess(keys: Keys, rank: int, elements: int, top: int) -> Bracket:
    """Between which keys the ascending, 0-based rank out of `elements` lies, very probably.

    `keys`, up to `top`, are those of a sample that is not the whole. How far the share of keys
    below the rank may be off is judged from how much it differs from piece to piece.
    """
    count = len(keys)
    share = (rank + 0.5) / elements
    middle = int(share * count)
    (there,) = select(keys, (middle,))
    by_piece = keys.reshape(-1, PIECE)
    off = [math.sqrt(share * (1.0 - share) / count)]
    for below in (by_piece < there, by_piece <= there):
        shares = below.mean(axis=1)
        off.append(float(shares.std()) / math.sqrt(len(shares)))
    margin = int(_DEVIATIONS * max(off) * count) + _LEAST
    first, last = middle - margin, middle + margin
    low, high = select(keys, (max(first, 0), min(last, count - 1)))
    return Bracket(
        low if first >= 0 else 0,
        high if last < count else top,
        min(max(elements // 2, _ROOM // 64), _ROOM),
    )


def key_at(rank: int, bracket: Bracket, found: Bracketed) -> int | None:
    """The key at an ascending, 0-based rank; None if it is not inside the bracket or not known."""
    rank -= found.below
    if rank < 0:
        return None
    if rank < found.low:
        return bracket.low
    if found.between is None:
        return None
    rank -= found.low
    count = len(found.between)
    if rank < count:
        return select(found.between, (rank,))[0]
    return bracket.high if rank - count < found.high else None


def select(keys: Keys, ranks: Sequence[int]) -> tuple[int, ...]:
    """The keys at ascending, 0-based ranks, counted out by halves of their bits.

    numpy's own way takes ten times as long where most keys are equal, as differences of bfloat16
    numbers are.
    """
    high = keys >> 16
    counts = np.bincount(high)
    cumulative = np.cumsum(counts)
    found = []
    for rank in ranks:
        half = int(np.searchsorted(cumulative, rank, side="right"))
        before = int(cumulative[half] - counts[half])
        inside = np.cumsum(np.bincount(keys[high == half] & 0xFFFF))
        found.append(half << 16 | int(np.searchsorted(inside, rank - before, side="right")))
    return tuple(found)
