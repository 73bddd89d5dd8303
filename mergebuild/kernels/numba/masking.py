"""Masks as arrays that loops can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mergebuild.kernels import random
from mergebuild.kernels.numba.buckets import bucket_bits, bucket_count
from mergebuild.kernels.numba.masks import ALL, AT_LEAST, BAND, GIVEN, NONE, RANDOM
from mergebuild.kernels.numba.numbers import TILE
from mergebuild.kernels.numba.ranks import draw_by_rank
from mergebuild.kernels.numba.sorting import DIGITS
from mergebuild.kernels.operations import (
    AtLeast,
    Band,
    DropAll,
    Random,
    RankedRandom,
    row_length,
)

if TYPE_CHECKING:
    from mergebuild.kernels.numba.bench import NumbaBench

_KNOWN = (type(None), DropAll, AtLeast, Band, Random, RankedRandom)


@dataclass(frozen=True, slots=True)
class Masks:
    """One per delta, in the order of the arguments of `fill_mask`."""

    kinds: NDArray[np.int64]
    bounds: NDArray[np.float32]
    streams: NDArray[np.uint32]
    limits: NDArray[np.uint64]


def known(masks: Sequence[Any]) -> bool:
    """Whether there are loops for all of these masks; None keeps everything."""
    return all(type(mask) in _KNOWN for mask in masks)


def arrays(masks: Sequence[Any]) -> Masks:
    """Of masks that are known."""
    count = len(masks)
    found = Masks(
        np.zeros(count, np.int64),
        np.zeros((count, 2), np.float32),
        np.zeros((count, 2), np.uint32),
        np.zeros(count, np.uint64),
    )
    for i, mask in enumerate(masks):
        match mask:
            case None:
                found.kinds[i] = ALL
            case DropAll():
                found.kinds[i] = NONE
            case AtLeast(threshold):
                found.kinds[i], found.bounds[i, 0] = AT_LEAST, threshold
            case Band(low, high):
                found.kinds[i], found.bounds[i] = BAND, (low, high)
            case Random(probability, stream):
                found.kinds[i], found.streams[i] = RANDOM, stream
                found.limits[i] = random.limit(probability)
            case RankedRandom():
                found.kinds[i] = GIVEN
    return found


def given(
    masks: Sequence[Any], deltas: Sequence[int], bench: NumbaBench, *, again: bool
) -> NDArray[Any]:
    """What masks by rank keep of the deltas on the bench, (masks, elements): uint8 ones and zeros,
    or float32 if any has factors. Other rows are not filled; without such masks there is no
    element. If they are wanted `again`, they are kept for then."""
    ranked = [mask for mask in masks if isinstance(mask, RankedRandom)]
    dtype = np.float32 if any(mask.inverse for mask in ranked) else np.uint8
    room = bench.scratch("given", dtype, len(masks), bench.count if ranked else 0)
    for kept, mask, delta in zip(room, masks, deltas, strict=True):
        if not isinstance(mask, RankedRandom):
            continue
        if mask.inverse:
            _draw(mask, delta, bench, bench.scratch("kept", np.uint8, bench.count), kept)
            continue
        drawn = bench.drawn.get(delta, mask, bench.start, bench.count)
        if drawn is None:
            drawn = bench.scratch("kept", np.uint8, bench.count)
            _draw(mask, delta, bench, drawn, bench.scratch("scaled", np.float32, bench.count))
            if again:
                bench.drawn.put(delta, mask, bench.start, drawn)
        kept[:] = drawn
    return room


def _draw(
    mask: RankedRandom,
    delta: int,
    bench: NumbaBench,
    kept: NDArray[np.uint8],
    scaled: NDArray[np.float32],
) -> None:
    """Fill the one of `kept` and `scaled` that the mask asks for."""
    length = row_length(bench.shape)
    room = max(length, TILE)
    limits, factors = _by_rank(mask.probability, mask.epsilon, length, mask.inverse)
    draw_by_rank(
        bench.raw,
        bench.codes,
        delta,
        length,
        bench.count,
        bench.start,
        np.array(mask.stream, np.uint32),
        limits,
        factors,
        bucket_bits(length),
        bench.scratch("base", np.float32, TILE),
        bench.scratch("ranks", np.uint32, 6, room),
        bench.scratch("buckets", np.uint16, room),
        bench.scratch("tables", np.uint32, 4, max(DIGITS, bucket_count(length) + 1)),
        kept,
        scaled,
    )


@lru_cache(maxsize=64)
def _by_rank(
    probability: float, epsilon: float, length: int, inverse: bool
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Limit of every rank, the last one twice, and factors if they differ; not to be written to."""
    ranks: Any = np.arange(length, dtype=np.float64)
    p = np.broadcast_to(random.ranked(probability, epsilon, ranks, length), length)
    limits = (p * 2**32).astype(np.uint32)
    factors = 1.0 / p if inverse else np.empty(0)
    return np.append(limits, limits[-1]), factors.astype(np.float32)
