"""The passes: sums, order statistics, random masks, rounding, and the walk over chunks."""

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

from mergebuild.kernels import BLOCK, Map, Outcome, Statistic, Steps, evaluate, random
from mergebuild.kernels.operations import (
    AbsoluteSums,
    AtLeast,
    Band,
    ColumnCombination,
    Combination,
    DropAll,
    Gram,
    HighCounts,
    Identity,
    Random,
    RowCombination,
    Sparse,
    TaskVectors,
)
from mergebuild.kernels.order import magnitudes, value
from mergebuild.kernels.torch import TorchKernels, single_threaded
from mergebuild.kernels.torch.masks import hashes, mask
from mergebuild.kernels.torch.sums import fold
from tests.methods_reference import KERNELS, STREAMS, Memory, bits, hash_words

CHUNKS = [BLOCK * blocks for blocks in (1, 2, 3, 64)]


def drive(
    steps: Steps, tensors: Sequence[Tensor], dtype: torch.dtype, chunk: int = BLOCK
) -> tuple[Tensor, Outcome]:
    output = torch.empty(tensors[0].shape, dtype=dtype)
    writer = Memory(output)
    readers = [Memory(tensor) for tensor in tensors]
    return output, evaluate(steps, readers, writer, writer.dtype, chunk=chunk, kernels=KERNELS)


def mapping(operation: Map) -> Steps:
    yield from ()
    return operation


def gathered(statistic: Statistic, tensors: Sequence[Tensor], chunk: int = BLOCK) -> Any:
    found = []

    def steps() -> Steps:
        found.append((yield statistic))
        return Identity()

    drive(steps(), tensors, torch.float32, chunk)
    return found[0]


# Sums.


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=70))
def test_a_fold_is_a_tree_over_zero_padded_values(values: list[float]) -> None:
    tree = values + [0.0] * ((1 << (len(values) - 1).bit_length()) - len(values))
    while len(tree) > 1:
        half = len(tree) // 2
        tree = [low + high for low, high in zip(tree[:half], tree[half:], strict=True)]
    assert fold(torch.tensor(values, dtype=torch.float64)).item() == tree[0]


@pytest.mark.parametrize("of", ["inputs", "deltas"])
def test_gram_is_exact_to_float64_and_the_same_for_all_chunks_and_threads(of: Any) -> None:
    torch.manual_seed(0)
    xs = [torch.randn(3 * BLOCK + 17) for _ in range(3)]
    vectors = [x.double() for x in xs] if of == "inputs" else [(x - xs[0]).double() for x in xs[1:]]
    grams = {gathered(Gram(of), xs, chunk) for chunk in CHUNKS}
    with single_threaded():
        assert torch.get_num_threads() == 1
        grams.add(gathered(Gram(of), xs))
    (gram,) = grams
    for i, u in enumerate(vectors):
        for j, v in enumerate(vectors):
            assert gram[i][j] == pytest.approx(math.fsum((u * v).tolist()), rel=1e-13, abs=1e-9)


@pytest.mark.parametrize("shape", [(1, 5), (300, 700), (70000, 3), (7, 5, 11), (2, 40000, 2)])
def test_column_gram_and_column_combination(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    xs = [torch.randn(shape) for _ in range(2)]
    grams = [gathered(Gram("inputs", "column"), xs, chunk) for chunk in CHUNKS]
    columns = [x.reshape(shape[0], -1).double() for x in xs]
    for gram in grams:
        assert gram.shape == (math.prod(shape[1:]), 2, 2)
        assert gram.tobytes() == grams[0].tobytes()
        expected = (columns[0] * columns[1]).sum(0).numpy()
        np.testing.assert_allclose(gram[:, 0, 1], expected, rtol=1e-12, atol=1e-10)
    c = np.random.default_rng(0).normal(size=(columns[0].shape[1], 2))
    w = torch.from_numpy(c).float()
    expected_y = xs[0].view(columns[0].shape) * w[:, 0] + xs[1].view(columns[0].shape) * w[:, 1]
    for chunk in CHUNKS:
        y, _ = drive(mapping(ColumnCombination("inputs", c)), xs, torch.float32, chunk)
        assert torch.equal(y.view(columns[0].shape), expected_y)


@pytest.mark.parametrize("shape", [(1, 200_000), (300, 700), (70000, 3), (7, 5, 11), (9, 0)])
def test_row_combination_holds_whole_rows(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    xs = [torch.randn(shape) for _ in range(3)]
    d = [(x - xs[0]).double() for x in xs[1:]]

    def solve(gram: Any) -> Any:
        return np.stack([gram[:, 0, 1], gram[:, 1, 1]], axis=1) / max(1, shape[-1])

    ys = [drive(mapping(RowCombination("deltas", solve)), xs, torch.float32, c)[0] for c in CHUNKS]
    c = [(d[i] * d[1]).mean(-1, keepdim=True) for i in (0, 1)]
    expected = xs[0].double() + c[0] * d[0] + c[1] * d[1]
    assert len({bits(y) for y in ys}) == 1
    torch.testing.assert_close(ys[0].double(), expected, rtol=0, atol=1e-4)


# Order statistics.

TINY = [0.0, -0.0, 1e-45, -1e-45, 3e-45, 1.1e-38, 1.17549435e-38, 1.0, -1.0, 1.0000001, 3.4e38]
values_ = st.one_of(st.floats(width=32, allow_nan=False), st.sampled_from([*TINY, math.inf]))


def order(d: Tensor, ranks: tuple[int, ...], chunk: int = BLOCK) -> Any:
    found: list[Any] = []

    def steps() -> Generator[Statistic, Any, Map]:
        found.append((yield from magnitudes({0: ranks}, sums=True))[0])
        return Identity()

    drive(steps(), [torch.zeros_like(d), d], torch.float32, chunk)
    return found[0]


@settings(deadline=None)
@given(st.lists(values_, min_size=1, max_size=60), st.data())
def test_order_statistics_are_those_of_sorting(values: list[float], data: st.DataObject) -> None:
    d = torch.tensor(values)
    ranks = data.draw(st.lists(st.integers(0, len(values) - 1), min_size=2, max_size=3).map(sorted))
    found = order(d, tuple(ranks))
    ordered = sorted(abs(v) for v in d.tolist())
    assert [value(found.key(rank)) for rank in ranks] == [ordered[rank] for rank in ranks]
    assert found.total() == pytest.approx(math.fsum(ordered), rel=1e-14)
    low, high = ordered[ranks[0]], ordered[ranks[-1]]
    first, last = found.key(ranks[0]), found.key(ranks[-1])
    inside = math.fsum(v for v in ordered if low <= v <= high)
    assert found.between(first, last) == pytest.approx(inside, rel=1e-14)
    above = math.fsum(v for v in ordered if v >= low)
    assert found.between(first) == pytest.approx(above, rel=1e-14)


def test_order_statistics_of_many_ties_over_many_chunks() -> None:
    torch.manual_seed(0)
    d = (torch.randn(4 * BLOCK - 9) * 1e-3).bfloat16().float()
    ordered = torch.sort(d.abs()).values
    for chunk in CHUNKS:
        found = order(d, (1000, 200_000), chunk)
        assert value(found.key(200_000)) == ordered[200_000].item()
        assert value(found.key(1000)) == ordered[1000].item()


def test_nan_ranks_largest() -> None:
    found = order(torch.tensor([math.nan, 1.0, math.inf, 2.0]), (1, 2, 3))
    assert [value(found.key(rank)) for rank in (1, 2)] == [2.0, math.inf]
    assert math.isnan(value(found.key(3)))


# Random masks.


def test_the_stream_and_hash_of_the_specification() -> None:
    keys = random.stream(0, "a", "w")
    assert keys == (0x56582268, 0x47B42919)
    words = [random.word(keys, e) for e in (0, 1, 2, 3, 2**32)]
    assert words == [0xDE3247C3, 0xA56F67F0, 0x7061569E, 0xD014BE2F, 0xB8687E08]


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("start", [0, 65536, 2**31 - 3, 2**32 - 8, 2**32, 7 * 2**32 + 5])
def test_torch_hashes_as_plain_python_does(stream: tuple[int, int], start: int) -> None:
    out, scratch = torch.empty(8, dtype=torch.int32), torch.empty(8, dtype=torch.int32)
    found = [w & 0xFFFFFFFF for w in hashes(stream, start, out, scratch).tolist()]
    assert found == [random.word(stream, start + i) for i in range(8)]


@pytest.mark.parametrize("probability", [1e-12, 0.1, 0.5, 0.9, 1 - 2**-53])
def test_a_mask_crosses_the_word_boundary(probability: float) -> None:
    bench = TorchKernels().bench((2**33,), ["float32"], "float32")
    bench.reserve(100)
    start = 2**32 - 40
    bench.place(start, 100)
    kept = mask(Random(probability, STREAMS[0]), torch.ones(100), bench)
    limit = random.limit(probability)
    expected = [float(random.word(STREAMS[0], start + i) < limit) for i in range(100)]
    assert kept.tolist() == expected


def test_random_words_look_random() -> None:
    n, count = 2**17, 24
    keys = [
        random.stream(0, f"{i:032x}", "model.layers.0.mlp.up_proj.weight") for i in range(count)
    ]
    uniform = np.stack([hash_words(key, n) for key in keys]) / 2.0**32
    assert int(uniform[0, 3] * 2**32) == random.word(keys[0], 3)
    centred = uniform - 0.5
    scores = {
        "mean": centred.mean(1) * math.sqrt(12 * n),
        "variance": ((centred**2).mean(1) - 1 / 12) * math.sqrt(180 * n),
        "kept at 0.1": ((uniform < 0.1).mean(1) - 0.1) * math.sqrt(n / 0.09),
        "kept at 0.5": ((uniform < 0.5).mean(1) - 0.5) * math.sqrt(n / 0.25),
        "across": (centred[:-1] * centred[1:]).mean(1) * 12 * math.sqrt(n),
    }
    for lag in (1, 64, 4096):
        product = (centred[:, lag:] * centred[:, :-lag]).mean(1)
        scores[f"lag {lag}"] = product * 12 * math.sqrt(n - lag)
    # The sum of 64 in a row varies as that of independent ones does: kurtosis 3 - 1.2 / 64.
    blocks = centred.reshape(count, -1, 64).sum(2)
    spread = (blocks**2).mean(1) / (64 / 12) - 1
    scores["64 in a row"] = spread / math.sqrt((2 - 1.2 / 64) / (n / 64))
    for name, bins in (("high", uniform * 256 // 1), ("low", uniform * 2**32 % 256)):
        counts = np.stack([np.bincount(row.astype(int), minlength=256) for row in bins])
        square = ((counts - n / 256) ** 2 / (n / 256)).sum(1)
        scores[f"{name} bins"] = (square - 255) / math.sqrt(2 * 255)
    for name, z in scores.items():
        assert 0.55 < z.std() < 1.5, (name, z.std())
        assert abs(z).max() < 4.5, (name, z)


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        (DropAll(), [0, 0, 0, 0]),
        (AtLeast(2.0), [0, 1, 1, 1]),
        (AtLeast(math.nan), [0, 0, 0, 0]),
        (Band(1.0, 2.0), [1, 1, 0, 0]),
    ],
)
def test_masks(kind: Any, kept: list[float]) -> None:
    d = torch.tensor([-1.0, 2.0, -3.0, math.inf])
    expected = torch.tensor([k * v for k, v in zip(kept, d.tolist(), strict=True)])
    sparse = TaskVectors((Sparse(1.0, kind),))
    y, _ = drive(mapping(sparse), [torch.zeros(4), d], torch.float32)
    assert torch.equal(torch.nan_to_num(y, 9.0), torch.nan_to_num(expected, 9.0))
    assert bool(y.isnan()[3]) == (kept[3] == 0), "0·inf stays visible"


def test_absolute_sums_before_and_after() -> None:
    torch.manual_seed(0)
    b, x = torch.randn(2 * BLOCK + 5), torch.randn(2 * BLOCK + 5)
    asked = AbsoluteSums((0, 0), (AtLeast(1.0), Random(0.3, STREAMS[1])))
    results = [gathered(asked, [b, x], chunk) for chunk in CHUNKS]
    assert all(result == results[0] for result in results)
    d = (x - b).abs().double()
    kept = torch.from_numpy(hash_words(STREAMS[1], len(d)) < int(0.3 * 2**32))
    sums = [d.sum(), d[d >= 1].sum(), d.sum(), d[kept].sum()]
    assert [v for pair in results[0] for v in pair] == pytest.approx([float(s) for s in sums])


# The walk, and rounding.


@pytest.mark.parametrize("chunk", [0, -BLOCK, BLOCK // 2, BLOCK + 1])
def test_chunks_are_multiples_of_the_block(chunk: int) -> None:
    with pytest.raises(ValueError, match="multiple"):
        drive(mapping(Identity()), [torch.ones(2)], torch.float32, chunk)


def test_operands_have_one_shape() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        drive(mapping(Identity()), [torch.ones(2), torch.ones(2, 1)], torch.float32)


def test_what_is_read_and_written() -> None:
    def steps() -> Steps:
        yield Gram("inputs")
        yield HighCounts((0,))
        return Combination("inputs", (0.5, 0.5))

    def calls(n: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        readers = [Memory(torch.ones(n)), Memory(torch.ones(n))]
        writer = Memory(torch.empty(n))
        evaluate(steps(), readers, writer, "float32", chunk=BLOCK, kernels=KERNELS)
        assert readers[0].calls == readers[1].calls
        return readers[0].calls, writer.calls

    assert calls(0) == ([], [])
    assert calls(BLOCK) == ([(0, BLOCK)], [(0, BLOCK)])
    parts = [(0, BLOCK), (BLOCK, BLOCK + 1)]
    assert calls(BLOCK + 1) == (parts * 3, parts)


def test_nonfinite_values_are_counted_once_per_operand() -> None:
    def steps() -> Steps:
        yield Gram("inputs")
        return Combination("inputs", (1.0, 1.0))

    x, y = torch.zeros(2 * BLOCK), torch.zeros(2 * BLOCK)
    x[3], x[BLOCK + 1], y[-1] = math.nan, math.inf, -math.inf
    for chunk in CHUNKS:
        result, outcome = drive(steps(), [x, y], torch.float32, chunk)
        assert outcome == Outcome((2, 1), 0)
        assert result.isfinite().sum() == 2 * BLOCK - 3


@pytest.mark.parametrize(
    ("dtype", "largest", "too_large"),
    [
        (torch.float16, 65519.0, 65520.0),
        (torch.bfloat16, float.fromhex("0x1.fefffep127"), float.fromhex("0x1.ffp127")),
    ],
)
def test_overflow_by_rounding_is_counted(
    dtype: torch.dtype, largest: float, too_large: float
) -> None:
    x = torch.tensor([largest, too_large, -too_large, math.inf, math.nan, 1.0])
    y, outcome = drive(mapping(Identity()), [x], dtype)
    assert outcome.overflowed == 2
    assert y.isinf().tolist() == [False, True, True, True, False, False]
    assert drive(mapping(Identity()), [x[:1]], dtype)[1].overflowed == 0


def test_one_rounding_to_nearest_even() -> None:
    x = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20])
    y, _ = drive(mapping(Combination("inputs", (1.0,))), [x], torch.bfloat16)
    assert y.tolist() == [1.0, 1 + 2**-6, 1 + 2**-7]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_identity_copies_bytes(dtype: torch.dtype) -> None:
    x = torch.tensor([math.pi, -0.0, math.nan, 1e-7, math.inf], dtype=dtype)
    assert bits(drive(mapping(Identity()), [x], dtype)[0]) == bits(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_operands_may_differ_in_dtype(dtype: torch.dtype) -> None:
    x, y = torch.randn(99).to(dtype), torch.randn(99)
    z, _ = drive(mapping(Combination("inputs", (2.0, 0.5))), [x, y], torch.float64)
    assert torch.equal(z, (x.float() * 2 + y * 0.5).double())


def test_unknown_operations_are_refused() -> None:
    class Strange(Map):
        pass

    class Odd(Statistic):
        pass

    with pytest.raises(NotImplementedError, match="Strange"):
        drive(mapping(Strange()), [torch.ones(1)], torch.float32)
    with pytest.raises(NotImplementedError, match="Odd"):
        gathered(Odd(), [torch.ones(1)])
