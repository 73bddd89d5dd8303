"""The compiled loops against torch, the reference: the same bits for all that they do.

NaN is compared as NaN: which one it is torch leaves to chance, and the loops write only one.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mergebuild.kernels import BLOCK, Kernels, Map, Outcome, Statistic, Steps, evaluate, random
from mergebuild.kernels.brackets import (
    Bracket,
    Bracketed,
    MagnitudeBrackets,
    MagnitudeKeys,
    Sample,
    ValueBrackets,
    ValueKeys,
)
from mergebuild.kernels.choose import torch_kernels
from mergebuild.kernels.numba import NumbaKernels
from mergebuild.kernels.numba.drawn import Drawn
from mergebuild.kernels.numba.ranks import draw_by_rank
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
    LowCounts,
    Random,
    RankedRandom,
    RowCombination,
    Sparse,
    TaskVectors,
)
from mergebuild.kernels.places import (
    Average,
    Balance,
    Balanced,
    Consensus,
    Extremes,
    Importance,
    ImportanceHighCounts,
    Important,
    Overlap,
    OverlapCounts,
    SelectedSquares,
    Spread,
    Toward,
    Value,
    ValueHighCounts,
    ValueLowCounts,
    Votes,
)
from mergebuild.kernels.torch import TorchKernels
from mergebuild.methods import registry
from mergebuild.methods.declaration import Operands
from tests.methods_reference import STREAMS, Memory, example_arguments


def refuse() -> Kernels:
    raise AssertionError("an operation that has a loop went elsewhere")


TORCH, LOOPS = TorchKernels(), NumbaKernels(refuse)
HELPED = NumbaKernels(torch_kernels)  # whole matrices are torch's
WITH_TORCH = ("iso_c", "tsv_merge")
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def run(
    steps: Steps, tensors: Sequence[Tensor], dtype: torch.dtype, kernels: Kernels, chunk: int
) -> tuple[Tensor, Outcome]:
    output = torch.empty(tensors[0].shape, dtype=dtype)
    writer = Memory(output)
    readers = [Memory(tensor) for tensor in tensors]
    return output, evaluate(steps, readers, writer, writer.dtype, chunk=chunk, kernels=kernels)


def mapping(operation: Map) -> Steps:
    yield from ()
    return operation


def gathered(statistic: Statistic, tensors: Sequence[Tensor], kernels: Kernels, chunk: int) -> Any:
    found = []

    def steps() -> Steps:
        found.append((yield statistic))
        return Identity()

    run(steps(), tensors, tensors[0].dtype, kernels, chunk)
    return found[0]


def same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit, and NaN where NaN."""
    nan = a.isnan()
    words = WORDS[a.element_size()]
    equal = torch.equal(a.view(words)[~nan], b.view(words)[~nan]) if a.ndim else a.equal(b)
    return torch.equal(nan, b.isnan()) and (equal or bool(nan.all()))


def plain(value: Any) -> str:
    """A statistic's value as text that tells every bit but those of a NaN."""
    if isinstance(value, np.ndarray):
        clean = np.where(value != value, np.nan, value) if value.dtype.kind == "f" else value
        return f"{clean.dtype} {clean.shape} {zlib.crc32(clean.tobytes())}"
    if isinstance(value, dict):
        return plain(list(value.items()))
    if isinstance(value, Bracketed):
        return plain([getattr(value, field.name) for field in fields(value)])
    if isinstance(value, list | tuple):
        return f"({' '.join(map(plain, value))})"
    return "nan" if value != value else repr(value)


def assert_same_map(
    operation: Map, tensors: Sequence[Tensor], dtype: torch.dtype, chunk: int = BLOCK
) -> None:
    expected, outcome = run(mapping(operation), tensors, dtype, TORCH, chunk)
    found, outcome_found = run(mapping(operation), tensors, dtype, LOOPS, chunk)
    assert outcome_found == outcome
    assert same(found.reshape(-1), expected.reshape(-1)), operation


def assert_same_value(statistic: Statistic, tensors: Sequence[Tensor], chunk: int = BLOCK) -> None:
    expected = gathered(statistic, tensors, TORCH, chunk)
    assert plain(gathered(statistic, tensors, LOOPS, chunk)) == plain(expected), statistic


# What is drawn.

INFINITE = 0x7F80
SPECIAL = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, -1e-45, 6e-8, 1.1e-38, 65504.0, 65520.0]
SPECIAL += [3.4e38, -3.4e38, 1.0, -1.0, 1.00390625, 1e30, 1e-30, 0.02, -0.001]
FACTORS = (1.0, 0.01, 30.0)  # of values: where functions are near, and far
WEIGHTS = st.sampled_from([0.5, 1.0, -1.0, 0.3, -0.7, 2.5, 0.0])
MASKS = st.one_of(
    st.none(),
    st.just(DropAll()),
    st.builds(AtLeast, st.sampled_from([0.0, 1.0, 0.5, math.inf, math.nan, 1e-45])),
    st.builds(Band, st.sampled_from([0.0, 0.25]), st.sampled_from([0.5, 2.0, math.inf])),
    st.builds(Random, st.sampled_from([0.1, 0.5, 0.9, 1e-12]), st.sampled_from(STREAMS)),
    st.builds(RankedRandom, st.just(0.5), st.sampled_from([0.15, 0.3]), st.sampled_from(STREAMS),
              st.booleans()),
)  # fmt: skip
SHAPES = st.sampled_from(
    [
        *((), (1,), (2,), (7,), (3, 5), (1, 1), (2, 1, 3), (17, 64), (4097,), (3, 4100)),
        *((BLOCK,), (2, BLOCK), (BLOCK + 1,), (3, BLOCK - 1), (9, 12345), (70000, 2)),
    ]
)


@st.composite
def operands(draw: st.DrawFn, least: int = 1, most: int = 4) -> list[Tensor]:
    """Tensors of one shape: normal values near each other, and special ones here and there."""
    shape, seed = draw(SHAPES), draw(st.integers(0, 2**32))
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    found = []
    for _ in range(draw(st.integers(least, most))):
        x = base + 0.1 * torch.randn(shape, generator=generator)
        for value in draw(st.lists(st.sampled_from(SPECIAL), max_size=4)):
            x.view(-1)[draw(st.integers(0, x.numel() - 1))] = value
        found.append(x.to(draw(st.sampled_from(DTYPES))))
    return found


dtypes = st.sampled_from(DTYPES)
chunks = st.sampled_from([BLOCK, 2 * BLOCK, 3 * BLOCK])
several = settings(deadline=None, max_examples=25)


# Numbers.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_short_is_decoded(dtype: torch.dtype) -> None:
    shorts = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    assert_same_map(Identity(), [shorts], torch.float32)
    assert_same_map(Combination("inputs", (1.0,)), [shorts], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_sorts_of_floats_are_rounded(dtype: torch.dtype) -> None:
    generator = np.random.default_rng(0)
    words = generator.integers(0, 2**32, 3 * BLOCK, dtype=np.uint32)
    edges = (np.arange(2**16, dtype=np.uint32)[:, None] << 16) + np.array(
        [0x7FFF, 0x8000, 0x8001, 0xFFF, 0x1000, 0x1001, 0x3000], np.uint32
    )
    for some in (words, edges.reshape(-1)):
        assert_same_map(Identity(), [torch.from_numpy(some.view(np.float32).copy())], dtype)


def test_float64_is_rounded_on_the_way_in() -> None:
    x = torch.tensor(
        [1e300, -1e39, 3.5e38, 1 + 2**-30, 1e-46, 5e-324, math.nan], dtype=torch.float64
    )
    assert_same_map(Combination("inputs", (1.0,)), [x], torch.float32)
    assert_same_map(Identity(), [x], torch.float64)


@several
@given(operands(most=3), dtypes, chunks, st.data())
def test_identity_and_combinations(
    tensors: list[Tensor], dtype: torch.dtype, chunk: int, data: st.DataObject
) -> None:
    count = len(tensors)
    assert_same_map(Identity(data.draw(st.integers(0, count - 1))), tensors, dtype, chunk)
    c = tuple(data.draw(st.lists(WEIGHTS, min_size=count, max_size=count)))
    assert_same_map(Combination("inputs", c), tensors, dtype, chunk)
    if count > 1:
        assert_same_map(Combination("deltas", c[1:]), tensors, dtype, chunk)


@several
@given(operands(least=2), dtypes, chunks, st.data())
def test_task_vectors(
    tensors: list[Tensor], dtype: torch.dtype, chunk: int, data: st.DataObject
) -> None:
    one = st.builds(Sparse, WEIGHTS, MASKS, st.sampled_from([1.0, 2.0, 1 / 0.3]))
    count = len(tensors) - 1
    sparse = tuple(data.draw(st.lists(one, min_size=count, max_size=count)))
    scale = data.draw(WEIGHTS)
    divisor = data.draw(st.sampled_from([1.0, 0.7, -3.0]))
    assert_same_map(TaskVectors(sparse, False, divisor, scale), tensors, dtype, chunk)
    elected: Any = data.draw(st.sampled_from(["elected", 1.0]))
    assert_same_map(TaskVectors(sparse, True, elected, scale), tensors, dtype, chunk)


@several
@given(operands(least=2), dtypes, chunks, st.data())
def test_maps_of_places(
    tensors: list[Tensor], dtype: torch.dtype, chunk: int, data: st.DataObject
) -> None:
    count = len(tensors)
    weights = tuple(data.draw(st.lists(WEIGHTS, min_size=count, max_size=count)))
    assert_same_map(
        Average(weights, data.draw(st.sampled_from([3.0, -0.7]))), tensors, dtype, chunk
    )
    step = data.draw(st.sampled_from([0.05, 0.0, -0.1, math.inf]))
    assert_same_map(Toward(step, 1e-6), tensors[:2], dtype, chunk)
    threshold = data.draw(st.sampled_from([0.0, 0.1, 1e-5]))
    assert_same_map(Overlap(threshold, weights[1:]), tensors, dtype, chunk)
    least = data.draw(st.sampled_from([None, 0.0, 0.005, math.inf]))
    assert_same_map(Votes(weights[1:], 1e-6, least), tensors, dtype, chunk)
    bounds = tuple(data.draw(st.lists(WEIGHTS.map(abs), min_size=count - 1, max_size=count - 1)))
    agree, scale = data.draw(st.integers(0, count)), data.draw(WEIGHTS)
    assert_same_map(Consensus(bounds, agree, scale), tensors, dtype, chunk)
    bound = data.draw(st.sampled_from([0.0, 0.01, 1.0, -0.5, math.inf, math.nan]))
    assert_same_map(Important(importance_of(tensors[0]), bound), tensors[:2], dtype, chunk)


def importance_of(x: Tensor) -> Importance:
    """κ of any sort, as many as there are rows."""
    rows = x.numel() // (x.shape[-1] if x.ndim else 1)
    kappa = np.random.default_rng(0).normal(size=rows)
    kappa[::7] = (SPECIAL * rows)[: len(kappa[::7])]
    return Importance(kappa)


def solve(gram: Any) -> Any:
    with np.errstate(all="ignore"):
        return gram[:, 0, :] / (1.0 + gram[:, 0, :1])


@several
@given(operands(least=2, most=3), dtypes, chunks, st.sampled_from(["inputs", "deltas"]))
def test_rows_and_columns(tensors: list[Tensor], dtype: torch.dtype, chunk: int, of: Any) -> None:
    assert_same_map(RowCombination(of, solve), tensors, dtype, chunk)
    assert_same_value(Gram(of, "column"), tensors, chunk)
    count = len(tensors) - (of == "deltas")
    columns = math.prod(tensors[0].shape[1:])
    c = np.random.default_rng(0).normal(size=(columns, count))
    assert_same_map(ColumnCombination(of, c), tensors, dtype, chunk)


# Statistics.


@several
@given(operands(), chunks)
def test_gram(tensors: list[Tensor], chunk: int) -> None:
    assert_same_value(Gram("inputs"), tensors, chunk)
    if len(tensors) > 1:
        assert_same_value(Gram("deltas"), tensors, chunk)


@several
@given(operands(least=2), chunks, st.booleans())
def test_counts(tensors: list[Tensor], chunk: int, sums: bool) -> None:
    deltas = tuple(reversed(range(len(tensors) - 1)))
    expected, found = (
        gathered(HighCounts(deltas, sums), tensors, kernels, chunk) for kernels in (TORCH, LOOPS)
    )
    for theirs, ours in zip(expected, found, strict=True):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours[:, :INFINITE], theirs[:, :INFINITE])
        # Above are infinity and NaN, whose bits beyond the exponent tell nothing.
        assert ours[0].sum() == theirs[0].sum()
    buckets = tuple(tuple(np.flatnonzero(counts[:INFINITE])[:3].tolist()) for counts, _ in found)
    assert_same_value(LowCounts(deltas, buckets), tensors, chunk)


@several
@given(operands(least=2), chunks, st.sampled_from([0, 1, 1000, 10**6]))
def test_brackets(tensors: list[Tensor], chunk: int, room: int) -> None:
    # The bits of a NaN beyond the exponent tell nothing; of float16 they differ.
    tensors = [tensor.nan_to_num(1.0, math.inf, -math.inf) for tensor in tensors]
    deltas = tuple(reversed(range(len(tensors) - 1)))
    assert_same_value(Sample(MagnitudeKeys(deltas)), tensors, chunk)
    keys = [np.sort(k) for k in gathered(MagnitudeKeys(deltas), tensors, TORCH, chunk)]
    last = len(keys[0]) - 1
    brackets = tuple(
        tuple(
            Bracket(int(k[first * last // 8]), int(k[(first + more) * last // 8]), room)
            for first, more in ((0, 0), (1, 1), (3, 2), (6, 2), (0, 8))[: 1 + delta * 2]
        )
        for k, delta in zip(keys, deltas, strict=True)
    )
    assert_same_value(MagnitudeBrackets(deltas, brackets), tensors, chunk)


@several
@given(operands(least=2), chunks, st.sampled_from([0.0, 0.005, 0.1, math.inf]))
def test_counts_of_values(tensors: list[Tensor], chunk: int, least: float) -> None:
    assert_same_counts(Spread(), tensors, chunk)
    assert_same_counts(importance_of(tensors[0]), tensors[:2], chunk)
    assert_same_value(SelectedSquares(least), tensors, chunk)


@several
@given(operands(least=2), chunks, st.sampled_from(FACTORS), st.data())
def test_counts_by_functions(
    tensors: list[Tensor], chunk: int, factor: float, data: st.DataObject
) -> None:
    tensors = [factor * tensor for tensor in tensors]
    assert_same_value(ImportanceHighCounts(), tensors[:2], chunk)
    assert_same_counts(data.draw(balances(len(tensors) - 1)), tensors, chunk)


@several
@given(operands(least=2), dtypes, chunks, st.sampled_from(FACTORS), st.data())
def test_balanced(
    tensors: list[Tensor], dtype: torch.dtype, chunk: int, factor: float, data: st.DataObject
) -> None:
    tensors = [factor * tensor for tensor in tensors]
    count = len(tensors) - 1
    values = tuple(replace(data.draw(balances(count)), delta=i) for i in range(count))
    edge = st.sampled_from([0.0, 0.25, 1.0, -0.5, 1e-45, math.inf, math.nan])
    bounds = tuple((data.draw(edge), data.draw(edge)) for _ in range(count))
    operation = Balanced(values, bounds, data.draw(WEIGHTS))
    assert_same_map(operation, tensors, dtype, chunk)


def balances(count: int) -> st.SearchStrategy[Balance]:
    """Of one of so many deltas."""
    edge = st.sampled_from([0.0, 0.5, 0.125, 4.0, 1e-45, math.inf, math.nan])
    return st.builds(Balance, st.integers(0, count - 1), edge, edge)


def assert_same_counts(value: Value, tensors: Sequence[Tensor], chunk: int) -> None:
    high = ValueHighCounts((value, value))
    assert_same_value(high, tensors, chunk)
    counts = gathered(high, tensors, LOOPS, chunk)[0]
    buckets = np.flatnonzero(counts)
    chosen = tuple(buckets[:2].tolist()), (int(buckets[-1]), int(counts.argmax()))
    assert_same_value(ValueLowCounts((value, value), chosen), tensors, chunk)
    if isinstance(value, Importance):
        return
    assert_same_value(Sample(ValueKeys((value,))), tensors, chunk)
    (keys,) = map(np.sort, gathered(ValueKeys((value,)), tensors, TORCH, chunk))
    last = len(keys) - 1
    ends = [(0, last), (last // 3, last // 2), (last // 2, last // 2), (last // 2, last)]
    brackets = [Bracket(int(keys[a]), int(keys[b]), last // 2) for a, b in ends]
    some = tuple(brackets[:1]), tuple(brackets)
    assert_same_value(ValueBrackets((value, value), some), tensors, chunk)


@pytest.mark.parametrize("value", [Spread(), Importance(np.ones(1))])
def test_values_have_loops(value: Value) -> None:
    x = torch.arange(BLOCK + 2, dtype=torch.float32)
    assert_same_value(ValueHighCounts((value,)), [x, 2 * x], 2 * BLOCK)
    assert_same_value(ValueLowCounts((value,), ((0x8000, 0xC000),)), [x, 2 * x], 2 * BLOCK)


def test_keys_of_all_sorts_of_values_order_them() -> None:
    words = np.random.default_rng(0).integers(0, 2**32, 3 * BLOCK, dtype=np.uint32)
    x = torch.from_numpy(words.view(np.float32).copy())
    for sign in (1.0, -1.0):
        value = Importance(np.full(1, sign))
        assert_same_counts(value, [torch.zeros_like(x), x], 3 * BLOCK)


@several
@given(operands(least=2), chunks, st.sampled_from([0.0, 0.1, 1e-5, math.inf]))
def test_extremes_and_overlaps(tensors: list[Tensor], chunk: int, threshold: float) -> None:
    assert_same_value(Extremes(), tensors, chunk)
    assert_same_value(OverlapCounts(threshold), tensors, chunk)


@several
@given(operands(least=2), chunks, st.data())
def test_absolute_sums(tensors: list[Tensor], chunk: int, data: st.DataObject) -> None:
    deltas = tuple(range(len(tensors) - 1))
    some: Any = st.lists(MASKS.filter(bool), min_size=len(deltas), max_size=len(deltas))
    assert_same_value(AbsoluteSums(deltas, tuple(data.draw(some))), tensors, chunk)


# Masks.


@pytest.mark.parametrize("start", [0, 65536, 2**31 - 3, 2**32 - 40, 2**32, 7 * 2**32 + 5])
@pytest.mark.parametrize("probability", [1e-12, 0.1, 0.5, 1 - 2**-53])
def test_random_masks_are_those_of_plain_python(start: int, probability: float) -> None:
    bench = LOOPS.bench((2**40,), ["float32", "float32"], "float32")
    bench.reserve(100)
    for buffer, value in zip(bench.inputs, (0.0, 1.0), strict=True):
        buffer[:] = np.full(100, value, np.float32).tobytes()
    bench.place(start, 100)
    for stream in STREAMS:
        bench.apply(TaskVectors((Sparse(1.0, Random(probability, stream)),)))
        made = bytearray(401)  # no place for a float32: a tensor may begin anywhere in a file
        bench.take(memoryview(made)[1:])
        kept = np.frombuffer(made[1:], np.float32)
        limit = random.limit(probability)
        assert kept.tolist() == [random.word(stream, start + i) < limit for i in range(100)]


def _normal(random_: np.random.Generator, shape: tuple[int, int]) -> Any:
    return random_.standard_normal(shape, np.float32)


def _with(x: Any, value: float, every: int) -> Any:
    x[:, ::every] = value
    return x


ROWS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Any]] = {
    "normal": _normal,
    "short floats": lambda r, s: (_normal(r, s) * 50).round() / 64,
    "all the same": lambda r, s: np.full(s, 0.37, np.float32),
    "zeros": lambda r, s: np.zeros(s, np.float32),
    "most are zero": lambda r, s: _normal(r, s) * (r.random(s) < 0.2),
    "zero or tiny or not": lambda r, s: (
        _normal(r, s) * 1e-9 ** r.integers(0, 2, s) // 1e-10 * 1e-10
    ),
    "one bucket": lambda r, s: 1 + r.random(s) * 1e-3,
    "one bucket, few values": lambda r, s: 1 + r.integers(0, 9, s) / 2**20,
    "denormal": lambda r, s: r.integers(0, 2**12, s).astype(np.uint32).view(np.float32),
    "any words": lambda r, s: r.integers(0, 2**32, s, dtype=np.uint32).view(np.float32),
    "infinite": lambda r, s: _with(_normal(r, s), math.inf, 7),
    "nan": lambda r, s: _with(_normal(r, s), math.nan, s[1]),
    "one large": lambda r, s: _with(_normal(r, s), 1e6, s[1]),
}


@pytest.mark.parametrize("length", [2, 32, 33, 129, 768, 4097, 20001])
@pytest.mark.parametrize("sort", ROWS)
def test_ranks_in_rows_of_all_sorts(sort: str, length: int) -> None:
    shape = max(2, 5000 // length), length
    values = np.ascontiguousarray(ROWS[sort](np.random.default_rng(0), shape), np.float32)
    tensors = [torch.zeros(shape), torch.from_numpy(values)]
    for probability, epsilon in ((0.5, 0.15), (0.5, 0.4999), (0.9, 0.0)):
        for inverse in (False, True):
            mask = RankedRandom(probability, epsilon, STREAMS[0], inverse)
            assert_same_map(TaskVectors((Sparse(1.0, mask),)), tensors, torch.float32)
            assert_same_value(AbsoluteSums((0,), (mask,)), tensors, BLOCK)


def test_masks_that_were_drawn_are_kept_as_far_as_there_is_room() -> None:
    drawn = Drawn(room=2)
    kept = np.array([1, 0, 0, 1, 1, 0, 1, 0, 1], np.uint8)
    mask = RankedRandom(0.5, 0.1, STREAMS[0])
    drawn.put(0, mask, 0, kept)
    drawn.put(0, mask, 9, kept)
    found = drawn.get(0, mask, 0, 9)
    assert found is not None
    assert found.tolist() == kept.tolist()
    for missing in ((1, mask, 0, 9), (0, DropAll(), 0, 9), (0, mask, 9, 9), (0, mask, 0, 8)):
        assert drawn.get(*missing) is None


@pytest.mark.parametrize("room", [0, 2**20])
def test_masks_are_drawn_anew_where_there_was_no_room(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(600, 300) for _ in range(3)]
    masks = tuple(RankedRandom(0.5, 0.3, stream) for stream in STREAMS[:2])
    draws: list[int] = []

    def draw(*arguments: Any) -> None:
        draws.append(arguments[2])
        draw_by_rank(*arguments)

    def steps() -> Steps:
        found.append((yield AbsoluteSums((1, 0), masks)))
        return TaskVectors((Sparse(0.5, masks[1]), Sparse(2.0, masks[0])))

    monkeypatch.setattr("mergebuild.kernels.numba.masking.draw_by_rank", draw)
    monkeypatch.setattr(Drawn.__init__, "__defaults__", (room,))
    found: list[Any] = []
    outputs = [run(steps(), tensors, torch.float32, one, BLOCK)[0] for one in (TORCH, LOOPS)]
    assert same(*outputs)
    assert found[0] == found[1]
    chunks = -(-600 // (BLOCK // 300))
    assert draws == [1, 0] * chunks + ([0, 1] * chunks if room == 0 else [])


# Whole methods, threads, and what has no loop.


@pytest.mark.parametrize("name", registry())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_methods_give_the_same_bits(name: str, dtype: torch.dtype) -> None:
    method = registry()[name]
    least, most = method.inputs
    based = method.base == "required"
    count = (min(3, most) if most is not None else max(3, least)) + based
    torch.manual_seed(0)
    base = torch.randn(130, 600)
    tensors = [(base + 0.1 * torch.randn(130, 600)).to(dtype) for _ in range(count)]
    given_ = Operands(count, based, (130, 600), STREAMS)
    arguments = example_arguments(method, given_)
    if "density" in arguments:
        arguments["density"] = (0.5,) * given_.deltas
    loops = HELPED if name in WITH_TORCH else LOOPS
    results = [
        run(_steps(method, given_, arguments), tensors, dtype, kernels, chunk)
        for kernels, chunk in ((TORCH, BLOCK), (loops, BLOCK), (loops, 4 * BLOCK))
    ]
    for output, outcome in results[1:]:
        assert same(output, results[0][0])
        assert outcome == results[0][1]


def _steps(method: Any, given_: Operands, arguments: Any) -> Steps:
    steps: Steps = method.run(given_, arguments)
    return steps


def test_threads_share_nothing() -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(3 * BLOCK + 5).bfloat16() for _ in range(3)]
    sparse = tuple(Sparse(0.5, Random(0.5, stream)) for stream in STREAMS[:2])
    operation = TaskVectors(sparse, elect=True, divisor="elected")
    expected = run(mapping(operation), tensors, torch.bfloat16, TORCH, BLOCK)[0]

    def work(_: int) -> Tensor:
        return run(mapping(operation), tensors, torch.bfloat16, LOOPS, BLOCK)[0]

    with ThreadPoolExecutor(4) as pool:
        assert all(same(found, expected) for found in pool.map(work, range(16)))


class Strange(Map):
    __slots__ = ()


class Odd(Statistic):
    __slots__ = ()


def test_what_has_no_loop_goes_to_the_others() -> None:
    calls: list[str] = []

    class OtherBench:
        """Says 'odd' to Odd, and doubles its first operand for Strange."""

        def __init__(self) -> None:
            self.inputs: list[memoryview] = []
            self.lag = 0
            self._seen: list[tuple[int, int]] = []

        def reserve(self, elements: int) -> None:
            if not self.inputs:
                self.inputs = [memoryview(bytearray(4 * elements))]

        def place(self, start: int, count: int) -> None:
            self._seen.append((start, count))

        def inspect(self) -> None:
            raise AssertionError

        def nonfinite(self) -> tuple[int, ...]:
            raise AssertionError

        def overflowed(self) -> int:
            return 14

        def begin(self, statistic: Statistic) -> Any:
            calls.append("begin")
            return self

        def add(self) -> None:
            calls.append(f"add {self._seen[-1]}")

        def value(self) -> Any:
            return "odd"

        def apply(self, operation: Map) -> None:
            calls.append(f"apply {self._seen[-1]}")

        def take(self, into: memoryview) -> None:
            count = self._seen[-1][1]
            into[:] = (2 * np.frombuffer(self.inputs[0], np.float32)[:count]).tobytes()

    class Others:
        def bench(self, shape: Any, operands: Any, output: str) -> Any:
            calls.append(f"bench {shape} {operands} {output}")
            return OtherBench()

    found = []

    def steps() -> Steps:
        found.append((yield Odd()))
        found.append((yield Gram("inputs")))
        return Strange()

    x = torch.arange(BLOCK + 2, dtype=torch.float32)
    y, outcome = run(steps(), [x], torch.float32, NumbaKernels(Others), BLOCK)
    assert found == ["odd", gathered(Gram("inputs"), [x], TORCH, BLOCK)]
    assert torch.equal(y, 2 * x)
    assert outcome == Outcome((0,), 14)
    parts = [(0, BLOCK), (BLOCK, 2)]
    assert calls == [
        f"bench ({BLOCK + 2},) ['float32'] float32",
        "begin",
        *(f"add {part}" for part in parts),
        *(f"apply {part}" for part in parts),
    ]


def test_operations_have_no_field_that_the_loops_do_not_know() -> None:
    """Whoever adds one teaches `numba/` about it, or sends it to the others; then this line."""
    kinds: list[Any] = [DropAll, AtLeast, Band, Random, Gram, HighCounts, LowCounts, AbsoluteSums]
    kinds += [Sample, MagnitudeKeys, MagnitudeBrackets, Bracket, Bracketed]
    kinds += [ValueKeys, ValueBrackets, SelectedSquares]
    kinds += [Identity, Combination, ColumnCombination, RowCombination, Sparse, TaskVectors]
    kinds += [Spread, Importance, Balance, ValueHighCounts, ValueLowCounts, ImportanceHighCounts]
    kinds += [Extremes, OverlapCounts, Average, Toward, Overlap, Votes, Important, Consensus]
    kinds += [Balanced]
    known = {kind.__name__: " ".join(field.name for field in fields(kind)) for kind in kinds}
    assert known == {
        "DropAll": "",
        "AtLeast": "threshold",
        "Band": "low high",
        "Random": "probability stream",
        "Gram": "of per",
        "HighCounts": "deltas sums",
        "LowCounts": "deltas buckets",
        "AbsoluteSums": "deltas masks",
        "Sample": "of",
        "MagnitudeKeys": "deltas",
        "MagnitudeBrackets": "deltas brackets",
        "Bracket": "low high room",
        "Bracketed": "below low high between",
        "Identity": "operand",
        "Combination": "of coefficients",
        "ColumnCombination": "of coefficients",
        "RowCombination": "of solve",
        "Sparse": "weight mask factor",
        "TaskVectors": "deltas elect divisor scale",
        "Spread": "",
        "Importance": "divergences",
        "Balance": "delta low high",
        "ValueHighCounts": "values",
        "ValueLowCounts": "values buckets",
        "ValueKeys": "values",
        "ValueBrackets": "values brackets",
        "SelectedSquares": "least",
        "ImportanceHighCounts": "",
        "Extremes": "",
        "OverlapCounts": "threshold",
        "Average": "weights divisor",
        "Toward": "step floor",
        "Overlap": "threshold factors",
        "Votes": "weights floor least",
        "Important": "importance threshold",
        "Consensus": "bounds least scale",
        "Balanced": "values bounds scale",
    }
