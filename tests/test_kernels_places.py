"""Values made at every place: their keys, order statistics and sums; masks by rank."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mergebuild.kernels import BLOCK, Map, Statistic, random
from mergebuild.kernels.operations import (
    AbsoluteSums,
    Identity,
    RankedRandom,
    Sparse,
    TaskVectors,
)
from mergebuild.kernels.places import (
    Balance,
    Extremes,
    Importance,
    ImportanceHighCounts,
    OverlapCounts,
    SelectedSquares,
    Spread,
    Value,
    WholeTensors,
)
from mergebuild.kernels.ranks import at_least, ranked, value
from mergebuild.kernels.selection import Halves
from mergebuild.kernels.torch.values import keys_of
from tests.methods_reference import STREAMS, bits
from tests.test_kernels import CHUNKS, drive, gathered, mapping

SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 1.1e-38, -1.17549435e-38, 1.0, -1.0, 3.4e38, -math.inf]
values_ = st.one_of(st.floats(width=32, allow_nan=False), st.sampled_from(SPECIAL))


@given(st.lists(values_, min_size=1, max_size=50))
def test_keys_order_as_values_do_and_give_them_back(values: list[float]) -> None:
    values = torch.tensor(values).tolist()
    keys = keys_of(torch.tensor(values)).tolist()
    assert sorted(values) == [value(key) for key in sorted(keys)]
    (nan,) = keys_of(torch.tensor([-math.nan])).tolist()
    assert nan > max(keys)
    assert math.isnan(value(nan))


@pytest.mark.parametrize(
    ("threshold", "least"),
    [(1.0, 1.0), (1.0 + 1e-12, 1.0 + 2**-23), (-1.0 + 1e-12, -1.0 + 2**-24), (math.inf, math.inf)],
)
def test_at_least_rounds_up(threshold: float, least: float) -> None:
    assert at_least(threshold) == least
    assert math.isnan(at_least(math.nan))


def looked_up(
    kind: Any, ranks: Sequence[int], xs: Sequence[Tensor], chunk: int = BLOCK
) -> list[float]:
    found: list[Halves] = []

    def steps() -> Generator[Statistic, Any, Map]:
        found.extend((yield from ranked((kind,), (ranks,))))
        return Identity()

    drive(steps(), xs, torch.float32, chunk)
    return [value(found[0].key(rank)) for rank in ranks]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40), st.data())
def test_order_statistics_of_values_are_those_of_sorting(
    values: list[float], data: st.DataObject
) -> None:
    d = torch.tensor(values)
    ranks = data.draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=3))
    xs = [torch.zeros_like(d), d, d * 0]
    spread = torch.sort((d.double() / 2).square().float()).values
    assert looked_up(Spread(), ranks, xs) == [spread[rank].item() for rank in ranks]
    kappa = np.array([-0.7])
    importance = torch.sort(d.abs() * torch.tensor(-0.7)).values
    found = looked_up(Importance(kappa), ranks, xs[:2])
    assert found == [importance[rank].item() for rank in ranks]


@pytest.mark.parametrize("shape", [(300, 700), (70_000, 3), (3 * BLOCK + 5,)])
def test_statistics_do_not_depend_on_chunks(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    xs = [torch.randn(shape) for _ in range(3)]
    ranks = (0, xs[0].numel() // 3, xs[0].numel() - 1)
    kappa = [gathered(ImportanceHighCounts(), xs, chunk)[0] for chunk in CHUNKS]
    assert len({one.tobytes() for one in kappa}) == 1
    p, q = (torch.softmax(x.double().view(-1, shape[-1]), 1) + 1e-8 for x in (xs[1], xs[0]))
    expected = (p * (p / q).log()).sum(1).numpy()
    np.testing.assert_allclose(kappa[0], expected, rtol=1e-9, atol=1e-15)
    extremes = {tuple(gathered(Extremes(), xs, chunk)) for chunk in CHUNKS}
    (((low, high), _),) = extremes
    assert (low, high) == ((xs[1] - xs[0]).abs().min(), (xs[1] - xs[0]).abs().max())
    kinds: tuple[Value, ...] = (Spread(), Importance(kappa[0]), Balance(1, low, high))
    for kind in kinds:
        inputs = xs[:2] if isinstance(kind, Importance) else xs
        assert len({tuple(looked_up(kind, ranks, inputs, chunk)) for chunk in CHUNKS}) == 1
    (squares,) = {gathered(SelectedSquares(0.5), xs, chunk) for chunk in CHUNKS}
    deltas = torch.stack([x - xs[0] for x in xs[1:]]).double()
    kept = deltas.square().flatten(1)[:, deltas.var(0, correction=0).flatten() >= 0.5]
    assert squares == pytest.approx(kept.sum(1).tolist())
    assert len({tuple(gathered(OverlapCounts(0.5), xs, chunk)) for chunk in CHUNKS}) == 1
    beyond = [(x - xs[0]).abs() > 0.5 for x in xs[1:]]
    both, alone = beyond[0] & beyond[1], beyond[0] & ~beyond[1]
    assert gathered(OverlapCounts(0.5), xs)[0] == (int(both.sum()), int(alone.sum()))


# Masks by rank.


def test_larger_elements_stay_more_often() -> None:
    length, rows = 16, 20_000
    d = torch.randn(rows, length, generator=torch.Generator().manual_seed(0))
    kind = RankedRandom(0.5, 0.3, STREAMS[0])
    xs = [torch.zeros_like(d), d]
    results = [
        drive(mapping(TaskVectors((Sparse(1.0, kind),))), xs, torch.float32, c)[0] for c in CHUNKS
    ]
    assert len({bits(one) for one in results}) == 1
    order = d.abs().argsort(1)
    shares = (results[0] != 0).float().gather(1, order).mean(0)
    for rank, share in enumerate(shares.tolist()):
        p = random.ranked(0.5, 0.3, rank, length)
        assert abs(share - p) < 4.5 * math.sqrt(p * (1 - p) / rows)
    sums = {tuple(gathered(AbsoluteSums((0,), (kind,)), xs, c)) for c in CHUNKS}
    (((before, after),),) = sums
    assert before == pytest.approx(float(d.abs().double().sum()))
    assert after == pytest.approx(float(results[0].abs().double().sum()))


def test_equal_magnitudes_rank_by_place_and_inverse_divides() -> None:
    d = torch.tensor([[1.0, -1.0, 1.0, -1.0]] * 5000)
    kind = RankedRandom(0.5, 0.3, STREAMS[1], inverse=True)
    y, _ = drive(
        mapping(TaskVectors((Sparse(1.0, kind),))), [torch.zeros_like(d), d], torch.float32
    )
    for place in range(4):
        p = random.ranked(0.5, 0.3, place, 4)
        kept = y[:, place] != 0
        assert abs(kept.float().mean() - p) < 0.04
        torch.testing.assert_close(y[kept, place], d[kept, place] / p)


def test_a_row_of_one_element_has_the_plain_probability() -> None:
    assert random.ranked(0.4, 0.3, 0, 1) == 0.4


# Whole tensors.


def test_whole_tensors_come_in_their_shape_and_may_be_overwritten() -> None:
    x = torch.arange(3.0 * BLOCK).view(3, -1)

    def double(tensors: Sequence[Tensor]) -> Tensor:
        assert tensors[0].shape == x.shape
        return tensors[0].mul_(2)

    y, _ = drive(mapping(WholeTensors(double)), [x.bfloat16()], torch.float32)
    assert torch.equal(y, x.bfloat16().float() * 2)


def test_a_failure_over_values_that_are_not_finite_is_nan() -> None:
    def fail(tensors: Sequence[Tensor]) -> Tensor:
        raise ArithmeticError("no convergence")

    y, outcome = drive(mapping(WholeTensors(fail)), [torch.tensor([1.0, math.nan])], torch.float32)
    assert y.isnan().all()
    assert outcome.nonfinite == (1,)
    with pytest.raises(ArithmeticError):
        drive(mapping(WholeTensors(fail)), [torch.ones(2)], torch.float32)
