"""Order statistics in one pass: exact whatever the sample says, and seldom in need of more."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mergebuild.kernels import BLOCK, Kernels, Map, Statistic, evaluate
from mergebuild.kernels.choose import torch_kernels
from mergebuild.kernels.numba import NumbaKernels
from mergebuild.kernels.operations import Identity
from mergebuild.kernels.order import TOP, keys_at
from mergebuild.kernels.places import Spread
from mergebuild.kernels.ranks import largest_nonzero, value
from mergebuild.kernels.sample import PIECE, pieces, whole
from mergebuild.kernels.selection import guess, select
from tests.methods_reference import KERNELS, Memory

LOOPS = NumbaKernels(torch_kernels)
BOTH = pytest.mark.parametrize("kernels", [KERNELS, LOOPS])
COUNT = BLOCK + 12_345
SMALL = 2**14


def keys_of(d: Tensor) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.asarray(d.reshape(-1).view(torch.int32).numpy()) & 0x7FFFFFFF


def found(
    deltas: list[Tensor], ranks: dict[int, tuple[int, ...]], kernels: Kernels, chunk: int = BLOCK
) -> tuple[dict[int, tuple[int, ...]], list[str], list[tuple[int, int]]]:
    """The keys of deltas of a base of zeros, what was asked for, and what was read."""
    asked: list[str] = []
    result: list[dict[int, tuple[int, ...]]] = []

    def steps() -> Generator[Statistic, Any, Map]:
        search = keys_at(ranks, deltas[0].numel())
        try:
            statistic = next(search)
            while True:
                asked.append(type(statistic).__name__)
                statistic = search.send((yield statistic))
        except StopIteration as stop:
            result.append(stop.value)
        return Identity()

    readers = [Memory(x) for x in (torch.zeros_like(deltas[0]), *deltas)]
    out = Memory(torch.empty_like(deltas[0]))
    outcome = evaluate(steps(), readers, out, "float32", chunk=chunk, kernels=kernels)
    assert outcome.nonfinite == tuple(int((~x.isfinite()).sum()) for x in (out.tensor, *deltas))
    assert all(reader.calls == readers[0].calls for reader in readers)
    return result[0], asked, readers[0].calls


def normal(count: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(count))


KINDS: dict[str, Callable[[int], Tensor]] = {
    "normal": normal,
    "tied, as of bfloat16 models": lambda n: (
        (0.02 * normal(n + 1)[1:] + 3e-4 * normal(n)).bfloat16().float()
        - (0.02 * normal(n + 1)[1:]).bfloat16().float()
    ),
    "mostly zeros": lambda n: normal(n) * (normal(n + 1)[1:] > 1.5),
    "half zeros": lambda n: normal(n) * (normal(n + 1)[1:] > 0.0),
    "all zeros": torch.zeros,
    "all the same": lambda n: torch.full((n,), -3.25),
    "ascending": lambda n: torch.arange(n, dtype=torch.float32),
    "by column": lambda n: normal(n) * (1 + torch.arange(n) % 1024),
    "by row": lambda n: normal(n) * (1 + torch.arange(n) // 1024 % 7),
    "not all finite": lambda n: torch.where(
        normal(n) > 2.5, torch.tensor([math.inf, math.nan, -math.inf, 1e-45]).repeat(n)[:n], 0.0
    ),
}
ONE_PASS = ["Sample", "MagnitudeBrackets"]
COUNTED = ["HighCounts", "LowCounts"]


@BOTH
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, SMALL, SMALL + 1, COUNT])
def test_keys_are_those_of_sorting(kind: str, count: int, kernels: Kernels) -> None:
    deltas = [KINDS[kind](count), normal(count)]
    some = sorted({0, count // 100, count // 2, count - 1 - count // 100, count - 1})
    ranks = {0: tuple(some), 1: (count // 3,)}
    expected = {
        i: tuple(np.sort(keys_of(d))[list(ranks[i])].tolist()) for i, d in enumerate(deltas)
    }
    for chunk in (BLOCK, 8 * BLOCK):
        keys, asked, calls = found(deltas, ranks, kernels, chunk)
        assert keys == expected
        assert asked[:2] == ONE_PASS[: 1 if whole(count) else 2]
        assert asked[2:] in ([], COUNTED if kind == "ascending" else [])
        if count <= chunk:
            assert calls == [(0, count)], "a tensor that fits a chunk is read once"


@BOTH
def test_a_wrong_guess_is_noticed_and_counted_out(kernels: Kernels) -> None:
    """Where the sample looks there is nothing to see."""
    d = normal(COUNT)
    for start, stop in pieces(COUNT):
        d[start:stop] = 0.0
    ranks = {0: (COUNT // 2,), 1: (COUNT // 2, COUNT - 1)}
    keys, asked, _ = found([d, normal(COUNT)], ranks, kernels)
    assert asked == ONE_PASS + COUNTED
    assert keys[0] == (int(np.sort(keys_of(d))[COUNT // 2]),)
    ordered = np.sort(keys_of(normal(COUNT)))
    assert keys[1] == (ordered[COUNT // 2], ordered[-1])


@BOTH
def test_more_inside_than_there_is_room_for_is_counted_out(kernels: Kernels) -> None:
    """In the sample few are near the middle, elsewhere nearly all are."""
    count = 4 * BLOCK
    d = 1 + 1e-3 * normal(count)
    for start, stop in pieces(count):
        d[start:stop] = torch.linspace(0.0, 2.0, PIECE)
    keys, asked, _ = found([d], {0: (count // 2,)}, kernels)
    assert asked == ONE_PASS + COUNTED
    assert keys[0] == (int(np.sort(keys_of(d))[count // 2]),)


def test_nothing_asked_nothing_done() -> None:
    assert found([normal(3)], {}, KERNELS)[:2] == ({}, [])


@pytest.mark.parametrize("count", [1, SMALL, SMALL + 1, 100_003, 2**20, 2**24, 2**31 + 5])
def test_pieces_lie_in_order_and_apart(count: int) -> None:
    found = pieces(count)
    ends = [end for piece in found for end in piece]
    assert ends == sorted(ends)
    assert ends[0] >= 0
    assert ends[-1] <= count
    if not whole(count):
        assert {stop - start for start, stop in found} == {PIECE}
        assert len({start % 2048 // 256 for start, _ in found}) == 8, "all sorts of columns"
        assert SMALL <= len(found) * PIECE <= max(SMALL, count // 32)


def test_guesses_are_nearly_always_right_and_narrow() -> None:
    generator = np.random.default_rng(0)
    count, missed, inside = 2**19, 0, 0
    places = np.concatenate([np.arange(*piece) for piece in pieces(count)])
    tries = [(seed, share) for seed in range(10) for share in (0.01, 0.3, 0.5, 0.99)]
    for _, share in tries:
        keys = generator.integers(0, TOP, count).astype(np.uint32)
        rank = int(share * count)
        bracket = guess(keys[places], rank, count, TOP)
        within = (keys > bracket.low) & (keys < bracket.high)
        missed += not bracket.low <= np.sort(keys)[rank] <= bracket.high
        inside += int(within.sum())
        assert within.sum() <= bracket.room
    assert missed == 0
    assert inside < 0.04 * count * len(tries)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50), st.data())
def test_selection(keys: list[int], data: st.DataObject) -> None:
    ranks = data.draw(st.lists(st.integers(0, len(keys) - 1), min_size=1, max_size=3).map(sorted))
    expected = tuple(sorted(keys)[rank] for rank in ranks)
    assert select(np.array(keys, np.uint32), ranks) == expected


# Values with a sign.


@BOTH
@pytest.mark.parametrize("count", [1, SMALL, COUNT])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["same", "half", "misled"])
def test_the_largest_above_zero(kind: str, count: int, share: float, kernels: Kernels) -> None:
    x = normal(count)
    if kind == "half":
        x[torch.rand(count, generator=torch.Generator().manual_seed(1)) < 0.5] = 0.0
    if kind == "misled" and not whole(count):
        for start, stop in pieces(count):
            x[start:stop] = 0.0
    deltas = [x, torch.zeros(count)]
    found: list[int | None] = []

    def steps() -> Generator[Statistic, Any, Map]:
        found.append((yield from largest_nonzero(Spread(), share, count)))
        return Identity()

    readers = [Memory(one) for one in (torch.zeros(count), *deltas)]
    out = Memory(torch.empty(count))
    evaluate(steps(), readers, out, "float32", chunk=BLOCK, kernels=kernels)
    spread = torch.sort(((x / 2).double().square()).float(), descending=True).values
    rank = int(share * int((spread > 0).sum()))
    expected = spread[rank - 1].item() if rank else None
    assert (None if found[0] is None else value(found[0])) == expected
