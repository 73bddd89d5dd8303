"""The random numbers of masks: a hash of a stream and an element's index, hence without state.

Plain Python, the reference that implementations are held against. A stream is named by seed, key
of the input and name of the tensor, so neither chunks, threads nor the order of models matter.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Final

MULTIPLIER_1: Final = 0x7FEB352D
MULTIPLIER_2: Final = 0x846CA68B
GOLDEN: Final = 0x9E3779B9
_WORD: Final = 0xFFFFFFFF


def stream(seed: int, input_key: str, tensor: str) -> tuple[int, int]:
    """The two 32-bit words that name a stream."""
    text = f"{seed}\0{input_key}\0{tensor}".encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def mix(x: int) -> int:
    """The public-domain permutation lowbias32."""
    x ^= x >> 16
    x = x * MULTIPLIER_1 & _WORD
    x ^= x >> 15
    x = x * MULTIPLIER_2 & _WORD
    return x ^ x >> 16


def word(keys: tuple[int, int], element: int) -> int:
    """32 random bits for the element with this row-major index."""
    low, high = element & _WORD, element >> 32
    return mix(mix(low ^ keys[0]) + (high * GOLDEN & _WORD ^ keys[1]) & _WORD)


def gates(keys: tuple[int, int], deviation: float) -> Callable[[int], float]:
    """Even draws of mean 0 and this standard deviation, by element: the hash and one product."""
    width = 2.0 * math.sqrt(3.0) * deviation
    return lambda element: width * ((word(keys, element) + 0.5) / 2**32 - 0.5)


def limit(probability: float) -> int:
    """An element is kept if its word is below this."""
    return int(probability * 2**32)


def ranked(probability: float, epsilon: float, rank: int, length: int) -> float:
    """The probability of the element with an ascending, 0-based rank in a row."""
    if length == 1:
        return probability
    return probability - epsilon + 2.0 * epsilon * rank / (length - 1)
