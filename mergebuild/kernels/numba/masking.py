"""Masks as arrays that loops can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergebuild.kernels import random
from mergebuild.kernels.numba.masks import ALL, AT_LEAST, BAND, NONE, RANDOM
from mergebuild.kernels.operations import AtLeast, Band, DropAll, Random

_KNOWN = (type(None), DropAll, AtLeast, Band, Random)


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
    return found
