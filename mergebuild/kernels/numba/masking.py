"""Masks as arrays that loops can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mergebuild.kernels import random
from mergebuild.kernels.numba.masks import ALL, AT_LEAST, BAND, GIVEN, NONE, RANDOM
from mergebuild.kernels.numba.ranks import BUCKETS, draw_by_rank
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


def given(masks: Sequence[Any], deltas: Sequence[int], bench: NumbaBench) -> NDArray[np.float32]:
    """What masks by rank keep of the deltas on the bench, float32 (masks, elements); other rows
    are not filled. Without such masks there is no element."""
    ranked = [isinstance(mask, RankedRandom) for mask in masks]
    room = bench.scratch("given", np.float32, len(masks), bench.count if any(ranked) else 0)
    length = row_length(bench.shape)
    for kept, mask, delta in zip(room, masks, deltas, strict=True):
        if isinstance(mask, RankedRandom):
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
                bench.floats(2),
                bench.scratch("keys", np.uint32, 2, length),
                bench.scratch("places", np.uint32, 2, length),
                bench.scratch("buckets", np.int64, BUCKETS),
                kept,
            )
    return room


@lru_cache(maxsize=64)
def _by_rank(
    probability: float, epsilon: float, length: int, inverse: bool
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Limit and factor of every rank; not to be written to."""
    p = [random.ranked(probability, epsilon, rank, length) for rank in range(length)]
    limits = np.array([random.limit(one) for one in p], np.uint32)
    return limits, np.array([1.0 / one if inverse else 1.0 for one in p], np.float32)
