"""Order statistics out of a sample and what was counted and kept by its advice, or by counting
halves of keys.

Nothing rests on a guess but time: it shows whether it was right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mergebuild.kernels.brackets import Bracket, Bracketed
from mergebuild.kernels.sample import PIECE

Keys: TypeAlias = NDArray[np.uint32]
Counts: TypeAlias = NDArray[np.int64]

_DEVIATIONS: Final = 4.0
_LEAST: Final = 8
_ROOM: Final = 2**22


class Halves:
    """Sorted keys, as far as ascending, 0-based `ranks` need them: `counts` are by the high halves,
    what refines them, in the `buckets` of these ranks, by the low 16 bits."""

    def __init__(self, counts: Counts, ranks: Sequence[int]) -> None:
        self._counts = counts
        self._cumulative = np.cumsum(counts)
        self._ranks = tuple(ranks)
        self._low: Mapping[int, Counts] = {}
        self.buckets = tuple(sorted({self._bucket(rank) for rank in ranks}))

    def refine(self, low: Mapping[int, Counts]) -> None:
        """Add the low halves counted inside `buckets`."""
        self._low = low

    def key(self, rank: int) -> int:
        """The key at a rank out of those asked for."""
        bucket = self._bucket(rank)
        before = int(self._cumulative[bucket] - self._counts[bucket])
        inside = np.cumsum(self._low[bucket])
        return bucket << 16 | int(np.searchsorted(inside, rank - before, side="right"))

    def keys(self) -> tuple[int, ...]:
        """The keys at the ranks that were asked for."""
        return tuple(map(self.key, self._ranks))

    def _bucket(self, rank: int) -> int:
        return int(np.searchsorted(self._cumulative, rank, side="right"))


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
    found = Halves(np.bincount(high), ranks)
    found.refine({half: np.bincount(keys[high == half] & 0xFFFF) for half in found.buckets})
    return found.keys()
