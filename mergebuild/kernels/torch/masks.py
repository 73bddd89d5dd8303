"""Masks as float32 zeros and ones, and the hash behind the random ones in wrapping int32."""

from __future__ import annotations

from functools import lru_cache
from typing import assert_never

import torch
from torch import Tensor

from mergebuild.kernels import random
from mergebuild.kernels.operations import (
    AtLeast,
    Band,
    DropAll,
    Mask,
    Random,
    RankedRandom,
    row_length,
)
from mergebuild.kernels.torch.bench import TorchBench


def mask(kind: Mask, delta: Tensor, bench: TorchBench) -> Tensor:
    """1 where an element of `delta`, which lies on the bench, is kept, else 0.

    Where a `RankedRandom` is to be `inverse`, 1/p takes the place of 1.
    The result is scratch that the next call overwrites.
    """
    kept = bench.scratch(-1, torch.float32)
    match kind:
        case DropAll():
            return kept.zero_()
        case AtLeast(threshold):
            return torch.abs(delta, out=kept).ge_(threshold)
        case Band(low, high):
            above = torch.abs(delta, out=bench.scratch(-2, torch.float32)).ge_(low)
            return torch.abs(delta, out=kept).le_(high).mul_(above)
        case Random(probability, stream):
            return _draw(random.limit(probability) - 2**31, stream, bench, kept)
        case RankedRandom():
            return _draw_ranked(kind, delta, bench, kept)
        case _:
            assert_never(kind)


def _draw(limits: Tensor | int, stream: tuple[int, int], bench: TorchBench, kept: Tensor) -> Tensor:
    """`limits` are lowered by 2**31, as the words are: their comparison is unsigned then."""
    start, stop = bench.start, bench.start + bench.count
    out, scratch = (bench.scratch(slot, torch.int32) for slot in (-1, -2))
    while start < stop:  # a part ends where the upper word of the index changes
        end = min(stop, (start >> 32) + 1 << 32)
        part = slice(start - bench.start, end - bench.start)
        words = hashes(stream, start, out[part], scratch[part])
        words.bitwise_xor_(-(2**31))
        torch.lt(words, limits if isinstance(limits, int) else limits[part], out=kept[part])
        start = end
    return kept


def _draw_ranked(kind: RankedRandom, delta: Tensor, bench: TorchBench, kept: Tensor) -> Tensor:
    length = row_length(bench.shape)
    rows = (delta.view(torch.int32) & 0x7FFFFFFF).view(-1, length)
    order = rows.argsort(dim=1, stable=True)
    places = torch.arange(length, device=order.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, order, places).view(-1)
    limits, factors = _by_rank(kind.probability, kind.epsilon, length)
    _draw(limits.to(ranks.device)[ranks], kind.stream, bench, kept)
    return kept.mul_(factors.to(ranks.device)[ranks]) if kind.inverse else kept


@lru_cache(maxsize=64)
def _by_rank(probability: float, epsilon: float, length: int) -> tuple[Tensor, Tensor]:
    """Limits, as `_draw` takes them, and 1/p of every rank; not to be written to."""
    p = [random.ranked(probability, epsilon, rank, length) for rank in range(length)]
    limits = torch.tensor([random.limit(one) - 2**31 for one in p], dtype=torch.int32)
    return limits, torch.tensor([1.0 / one for one in p], dtype=torch.float32)


def hashes(stream: tuple[int, int], start: int, out: Tensor, scratch: Tensor) -> Tensor:
    """Random words of consecutive elements that share the upper word of their index, as int32."""
    high = (start >> 32) * random.GOLDEN ^ stream[1]
    torch.arange(len(out), dtype=torch.int32, out=out)
    out.add_(_signed(start)).bitwise_xor_(_signed(stream[0]))
    return _mix(_mix(out, scratch).add_(_signed(high)), scratch)


def _mix(x: Tensor, scratch: Tensor) -> Tensor:
    _xor_shifted(x, 16, scratch).mul_(_signed(random.MULTIPLIER_1))
    _xor_shifted(x, 15, scratch).mul_(_signed(random.MULTIPLIER_2))
    return _xor_shifted(x, 16, scratch)


def _xor_shifted(x: Tensor, bits: int, scratch: Tensor) -> Tensor:
    """x ^= x >> bits; the shift of int32 brings in copies of the sign, which are cut off."""
    torch.bitwise_right_shift(x, bits, out=scratch)
    return x.bitwise_xor_(scratch.bitwise_and_((1 << 32 - bits) - 1))


def _signed(word: int) -> int:
    word &= 0xFFFFFFFF
    return word - 2**32 if word >= 2**31 else word
