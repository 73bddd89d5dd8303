"""Masks over a tile of deltas as float32 zeros and ones, the random ones hashed on the spot."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mergebuild.kernels import random
from mergebuild.kernels.numba.jit import jit

ALL, NONE, AT_LEAST, BAND, RANDOM, GIVEN = 0, 1, 2, 3, 4, 5
"""Kinds of masks. One that is given was made before, as whole rows had to be seen."""

_MULTIPLIER_1: Final = np.uint32(random.MULTIPLIER_1)
_MULTIPLIER_2: Final = np.uint32(random.MULTIPLIER_2)
_GOLDEN: Final = np.uint64(random.GOLDEN)
_ONE = np.float32(1.0)
_ZERO = np.float32(0.0)


@jit
def mix(x: Any) -> Any:
    """lowbias32 on uint32."""
    x = np.uint32(x ^ (x >> np.uint32(16)))
    x = np.uint32(x * _MULTIPLIER_1)
    x = np.uint32(x ^ (x >> np.uint32(15)))
    x = np.uint32(x * _MULTIPLIER_2)
    return np.uint32(x ^ (x >> np.uint32(16)))


@jit
def fill_mask(
    kind: int,
    bounds: Any,
    stream: Any,
    limit: Any,
    element: int,
    values: Any,
    count: int,
    kept: Any,
) -> None:
    """Which of the deltas `values`, from the tensor's element `element` on, are kept.

    `bounds` are the two float32 of a threshold or band, `stream` the two uint32 of a random mask,
    `limit` the uint64 that its words are compared with.
    """
    if kind == ALL:
        for j in range(count):
            kept[j] = _ONE
    elif kind == NONE:
        for j in range(count):
            kept[j] = _ZERO
    elif kind == AT_LEAST:
        low = bounds[0]
        for j in range(count):
            kept[j] = _ONE if abs(values[j]) >= low else _ZERO
    elif kind == BAND:
        low, high = bounds[0], bounds[1]
        for j in range(count):
            size = abs(values[j])
            kept[j] = _ONE if (size >= low) & (size <= high) else _ZERO
    else:
        done: Any = 0
        while done < count:
            low, salt, part = _run(stream, element + done, count - done)
            _draw(stream[0], salt, limit, low, kept[done : done + part])
            done += part


@jit
def hash_words(stream: Any, element: int, words: Any) -> None:
    """The random words, uint32, of consecutive elements of the tensor from `element` on."""
    done: Any = 0
    while done < len(words):
        low, salt, part = _run(stream, element + done, len(words) - done)
        _hash(stream[0], salt, low, words[done : done + part])
        done += part


@jit
def _run(stream: Any, element: int, count: int) -> Any:
    """The lower word of an element's index, what the upper one adds, and how many of the next
    elements share that."""
    index = np.uint64(element)
    low = np.uint32(index & np.uint64(0xFFFFFFFF))
    upper = np.uint32((index >> np.uint64(32)) * _GOLDEN)
    return low, np.uint32(upper ^ stream[1]), min(count, 2**32 - np.int64(low))


@jit
def _draw(key: Any, salt: Any, limit: Any, first: Any, kept: Any) -> None:
    if limit > np.uint64(0xFFFFFFFF):
        kept[:] = _ONE
        return
    below = np.uint32(limit)
    for j in range(len(kept)):
        kept[j] = _ONE if _word(key, salt, np.uint32(first + np.uint32(j))) < below else _ZERO


@jit
def _hash(key: Any, salt: Any, first: Any, words: Any) -> None:
    for j in range(len(words)):
        words[j] = _word(key, salt, np.uint32(first + np.uint32(j)))


@jit
def _word(key: Any, salt: Any, index: Any) -> Any:
    return mix(np.uint32(mix(np.uint32(index ^ key)) + salt))
