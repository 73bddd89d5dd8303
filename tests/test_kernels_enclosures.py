"""What is decided about a `Balance` without computing it: bounds hold, and results are torch's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mergebuild.kernels import BLOCK
from mergebuild.kernels.brackets import Bracket, ValueBrackets
from mergebuild.kernels.numba.balances import balance
from mergebuild.kernels.numba.enclosures import add_sizes, constants, enclose
from mergebuild.kernels.numba.numbers import TILE
from mergebuild.kernels.places import Balance, Balanced, Extremes
from mergebuild.kernels.ranks import TOP, ZERO, value
from mergebuild.kernels.torch.values import balance as defined
from mergebuild.kernels.torch.values import keys_of
from mergebuild.methods import registry
from mergebuild.methods.declaration import Operands
from tests.test_kernels_numba import (
    LOOPS,
    SPECIAL,
    TORCH,
    assert_same_map,
    assert_same_value,
    gathered,
    run,
    same,
)

COUNT = 3 * TILE + 4_321


def normal(seed: int, count: int = COUNT) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def near_a_base(seed: int) -> Tensor:
    """Differences of bfloat16 numbers, many of them equal."""
    base = 0.02 * normal(0)
    return (base + 1e-3 * normal(seed)).bfloat16().float() - base.bfloat16().float()


def special(seed: int) -> Tensor:
    found = 1e-2 * normal(seed)
    found[seed % 7 :: 7] = torch.tensor(SPECIAL).repeat(COUNT)[: len(found[seed % 7 :: 7])]
    return found


# Deltas by a seed.
KINDS: dict[str, Callable[[int], Tensor]] = {
    "of bfloat16 models": near_a_base,
    "fine": lambda seed: 1e-3 * normal(seed),
    "heavy in the tails": lambda seed: 1e-4 * normal(seed) ** 5,
    "large": lambda seed: 3.0 * normal(seed),
    "at the edge of near": lambda seed: 0.25 * normal(seed),
    "tiny": lambda seed: 1e-18 * normal(seed),
    "vanishing": lambda seed: 1e-30 * normal(seed),
    "subnormal": lambda seed: 1e-42 * normal(seed),
    "huge": lambda seed: 1e30 * normal(seed),
    "of all sizes": lambda seed: normal(seed) * 10.0 ** (20.0 * normal(seed + 50)).clamp(-37, 30),
    "mostly zeros": lambda seed: 1e-3 * normal(seed) * (normal(seed + 50) > 1.0),
    "half zeros": lambda seed: 1e-3 * normal(seed) * (normal(seed + 50) > 0.0),
    "zeros": lambda seed: torch.zeros(COUNT) * (-1.0) ** seed,
    "all the same": lambda seed: torch.full((COUNT,), 0.01),
    "opposite": lambda seed: 1e-3 * (-1.0) ** seed * normal(1),
    "nearly opposite": lambda seed: near_a_base(1) * (-1.0) ** seed + 1e-9 * normal(seed),
    "not all finite": special,
}


def operands(kind: str, deltas: int) -> list[Tensor]:
    """Whose deltas are those of the kind, the base being 0."""
    return [torch.zeros(COUNT), *(KINDS[kind](seed) for seed in range(1, deltas + 1))]


def balances(tensors: list[Tensor]) -> tuple[Balance, ...]:
    extremes = gathered(Extremes(), tensors, TORCH, BLOCK)
    return tuple(Balance(i, low, high) for i, (low, high) in enumerate(extremes))


def enclosures(
    deltas: list[Tensor], one: Balance
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """About what the first values are, how far they are off at most, and what they are."""
    rows = np.stack([delta[:TILE].numpy() for delta in deltas])
    total, size, about, off = np.empty((4, TILE), np.float32)
    add_sizes(rows, TILE, total, size)
    low, high = np.float32(one.low), np.float32(one.high)
    narrow(rows[one.delta], total, size, len(rows), low, high, about, off)
    doubles = np.empty((2, TILE))
    balance(rows, one.delta, low, high, TILE, doubles)
    with np.errstate(all="ignore"):
        assert same(torch.from_numpy(doubles[0]), defined(one, [d[:TILE] for d in deltas]))
    return about, off, doubles[0]


def narrow(delta: Any, total: Any, size: Any, models: int, low: Any, high: Any, *into: Any) -> None:
    fixed = tuple(map(np.float32, constants(models, low, high)))
    enclose(delta, total, size, fixed, TILE, *into)


@pytest.mark.parametrize("deltas", [1, 2, 30])
@pytest.mark.parametrize("kind", KINDS)
def test_values_lie_in_their_enclosures(kind: str, deltas: int) -> None:
    tensors = operands(kind, deltas)[1:]
    for one in balances([torch.zeros(COUNT), *tensors])[:2]:
        for low, high in ((one.low, one.high), (one.low / 2, one.high / 3), (0.01, 0.01)):
            low, high = (float(np.float32(end)) for end in (low, high))
            about, off, exact = enclosures(tensors, Balance(one.delta, low, high))
            known = off < math.inf
            wide = about[known].astype(np.float64)
            assert (abs(wide - exact[known]) <= 0.6 * off[known]).all(), "with room to spare"
            zero = off == 0.0
            assert (exact[zero].view(np.uint64) == 0).all(), "+0 for sure"


@pytest.mark.parametrize("kind", ["of bfloat16 models", "fine", "heavy in the tails"])
def test_enclosures_are_narrow(kind: str) -> None:
    tensors = operands(kind, 2)
    about, off, _ = enclosures(tensors[1:], balances(tensors)[0])
    assert np.median(off) <= 1e-4 * np.median(abs(about))


@pytest.mark.parametrize("deltas", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_brackets(kind: str, deltas: int) -> None:
    """Ends at values that many have, at both zeros, below and above all, and one inside another."""
    tensors = operands(kind, deltas)
    values = balances(tensors)
    brackets = []
    for one in values:
        keys = keys_of(defined(one, tensors[1:]).float()).sort().values.tolist()
        some = [(keys[i * COUNT // 10], keys[k * COUNT // 10]) for i, k in ((4, 6), (5, 5), (0, 9))]
        some += [(keys[COUNT // 2], keys[-1]), (keys[-9], TOP), (0, keys[9]), (0, TOP), (0, 0)]
        some += [(ZERO, ZERO), (ZERO - 1, ZERO), (keys[0], ZERO), (ZERO, keys[-1]), (TOP, TOP)]
        room = COUNT if one.delta else 999
        brackets.append(tuple(Bracket(low, high, room) for low, high in some if low <= high))
    for few in (slice(3, 5), slice(None), slice(8, 9), slice(0)):
        asked = ValueBrackets(values[::-1], tuple(some[few] for some in brackets[::-1]))
        assert_same_value(asked, tensors, BLOCK)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("deltas", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_maps(kind: str, deltas: int, dtype: torch.dtype) -> None:
    tensors = operands(kind, deltas)
    values = balances(tensors)
    bounds = []
    for one in values:
        keys = keys_of(defined(one, tensors[1:]).float()).sort().values.tolist()
        bounds.append((value(keys[COUNT // 2]), value(keys[-1])))
    ordinary = (0.02 * normal(0)).bfloat16().float()
    odd = torch.tensor(SPECIAL).repeat(COUNT // len(SPECIAL) + 1)[:COUNT]
    for base, scale in ((ordinary, 1.0), (odd, -0.7)):
        there = [base, *(base + delta for delta in tensors[1:])]
        assert_same_map(Balanced(values, tuple(bounds), scale), there, dtype)
        assert_same_map(Balanced(values[:1], ((0.0, 1.0),), scale), there, dtype)
    for scale in (0.0, 1e-9, 1e9, math.inf):
        assert_same_map(Balanced(values, tuple(bounds), scale), tensors, dtype)
    assert_same_map(Balanced(values, tuple(bounds), 1.0), tensors, torch.float32)


@pytest.mark.parametrize("density", [(0.5, 0.5), (0.03, 0.97)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_method(kind: str, density: tuple[float, float]) -> None:
    tensors = operands(kind, 2)
    method = registry()["pcb_merging"]
    arguments: dict[str, Any] = {"density": density, "lambda_": 0.8}
    for count in (1, 3, COUNT):
        some = [tensor[:count] for tensor in tensors]
        steps = [method.run(Operands(3, True, (count,), ()), arguments) for _ in range(2)]
        ours, noticed = run(steps[0], some, torch.bfloat16, LOOPS, BLOCK)
        theirs, there = run(steps[1], some, torch.bfloat16, TORCH, BLOCK)
        assert noticed == there
        assert same(ours, theirs)
