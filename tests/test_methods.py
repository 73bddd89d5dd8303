"""Laws that all methods keep, and agreement with whole-tensor references."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mergebuild.kernels import BLOCK
from mergebuild.kernels.torch import single_threaded
from mergebuild.methods import registry
from mergebuild.methods.declaration import Operands, Required, Scope
from mergebuild.methods.slerp import coefficients, solver
from tests.methods_reference import REFERENCES, STREAMS, bits, example_arguments, merge

NAMES = sorted(registry())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests may run beside each other, and tensors are small."""
    with single_threaded():
        yield


# References.

SHAPES = [
    (),
    (0,),
    (2, 0, 3),
    (1,),
    (2,),
    (7,),
    (3, 5),
    (1, 9),
    (9, 1),
    (2, 3, 5),
    (3, 1, 2, 4),
    (64, 33),
]
KINDS = ["normal", "llm", "same", "zeros", "antipodal", "colinear", "equal", "tiny", "huge"]


def tensors_of(kind: str, count: int, shape: tuple[int, ...], seed: int) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, *shape))
    match kind:
        case "llm":
            x = x[:1] * 0.02 + x * 1e-3
        case "same":
            x = np.repeat(x[:1], count, 0)
        case "zeros":
            x *= rng.integers(0, 2, size=x.shape)
        case "antipodal":
            x = x[:1] * (-1.0) ** np.arange(count).reshape(-1, *[1] * len(shape))
        case "colinear":
            x = x[:1] * (1 + np.arange(count).reshape(-1, *[1] * len(shape)))
        case "equal":  # many equal magnitudes
            x = np.round(x)
        case "tiny":
            x *= 1e-42
        case "huge":
            x *= 1e30
    return [torch.from_numpy(np.asarray(one, np.float32)) for one in x]


@st.composite
def cases(draw: st.DrawFn, name: str) -> tuple[list[Tensor], bool, dict[str, Any]]:
    declared = registry()[name]
    base = declared.base == "required" or (declared.base == "optional" and draw(st.booleans()))
    least, most = declared.inputs
    others = draw(st.integers(least, 4 if most is None else most))
    shape, kind = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(KINDS))
    xs = tensors_of(kind, others + base, shape, draw(st.integers(0, 10**6)))
    operands = Operands(len(xs), base, shape, STREAMS)
    arguments = {}
    for parameter in declared.parameters.values():
        low = -2.0 if parameter.low is None else parameter.low
        high = 3.0 if parameter.high is None else parameter.high
        if parameter.name == "epsilon" and parameter.scope is Scope.DELTA:
            high = 0.3  # beyond it few densities fit
        one: st.SearchStrategy[Any] = st.floats(low, high)
        # Coefficients are rounded to float32, so that smaller ones differ from the reference's.
        one = one.map(lambda v: 0.0 if abs(v) < 1e-6 else v)
        if parameter.low_open:
            one = one.map(lambda v: max(v, 1e-5))
        if parameter.type is bool:
            one = st.sampled_from([False, True, *parameter.choices])
        elif parameter.type is int:
            one = st.just(0) if parameter.name == "seed" else st.integers(0, 4)
        if parameter.nullable:
            one = st.none() | one
        counts = {Scope.SHARED: None, Scope.INPUT: len(xs), Scope.DELTA: operands.deltas}
        count = counts[parameter.scope]
        arguments[parameter.name] = draw(one if count is None else st.tuples(*[one] * count))
    return xs, base, arguments


def fits(name: str, operands: Operands, arguments: dict[str, Any]) -> bool:
    return all(f.level != "error" for f in registry()[name].check(operands, arguments))


@pytest.mark.parametrize("name", NAMES)
def test_streaming_agrees_with_the_reference(name: str) -> None:
    @settings(deadline=None, max_examples=60)
    @given(cases(name))
    def agrees(case: tuple[list[Tensor], bool, dict[str, Any]]) -> None:
        xs, base, arguments = case
        if fits(name, Operands(len(xs), base, tuple(xs[0].shape)), arguments):
            compare(name, xs, base, arguments)

    agrees()


def compare(name: str, xs: list[Tensor], base: bool, arguments: dict[str, Any]) -> None:
    y, _ = merge(name, xs, base=base, dtype=torch.float32, arguments=arguments)
    if not y.numel():
        assert y.shape == xs[0].shape
        return
    expected, tolerance = REFERENCES[name](xs, base, arguments)
    if isinstance(tolerance, float) and tolerance == 0:
        assert torch.equal(torch.nan_to_num(y, 7), torch.nan_to_num(expected.float(), 7))
    else:
        off = (y.double() - expected.double()).abs()
        fine = (off <= tolerance + 1e-44) | (y.isnan() & expected.isnan())
        assert fine.all(), f"off by {off.max():.3g}, tolerance {tolerance}"


@pytest.mark.parametrize("shape", [(5, 41_000), (3 * BLOCK + 1,), (100_000, 2)])
@pytest.mark.parametrize("name", NAMES)
def test_large_tensors_agree_and_chunks_do_not_matter(name: str, shape: tuple[int, ...]) -> None:
    declared = registry()[name]
    base = declared.base != "ignored"
    xs = tensors_of("llm", min(4, (declared.inputs[1] or 9) + base), shape, 1)
    given = example_arguments(declared, Operands(len(xs), base, shape))
    variants = [given]
    if "density" in given:
        some = {"density": (0.3, 0.6, 0.8)[: len(xs) - 1]}
        rescales: Sequence[Any] = (False, True, "inverse") if shape[0] == 5 else (True,)
        rescales = rescales if "rescale" in given else ()
        variants = [given | some | {"rescale": r} for r in rescales] or [given | some]
    if name == "nuslerp":
        rows = {"nuslerp_flatten": False}
        variants += [given | rows, given | rows | {"nuslerp_row_wise": True}]
    if name == "model_stock":
        variants.append(given | {"filter_wise": True})
    if name == "sce":
        variants += [given | {"select_topk": share, "floor": 0.0} for share in (0.0, 0.3)]
    for arguments in variants:
        compare(name, xs, base, arguments)
        halves = [x.bfloat16() for x in xs]
        results = {
            bits(merge(name, halves, base=base, chunk=BLOCK * blocks, arguments=arguments)[0])
            for blocks in (1, 3, 64)
        }
        assert len(results) == 1


def test_many_angles_at_once_are_those_of_one() -> None:
    vectors = np.random.default_rng(0).normal(size=(500, 2, 6))
    vectors[:100, 1] = -vectors[:100, 0]
    vectors[100:200, 1] = vectors[100:200, 0] * 1.0002 + 1e-5
    vectors[200:210] = 0
    gram = vectors @ vectors.transpose(0, 2, 1)
    assert solver(0.3)(gram).tolist() == [list(coefficients(g, 0.3)) for g in gram.tolist()]


# Laws over the live registry.


def inputs_of(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    declared = registry()[name]
    count = (declared.inputs[1] or 3) + (declared.base == "required")
    return [x.to(dtype) for x in tensors_of("normal", count, shape, 3)]


def arguments_of(name: str, xs: Sequence[Tensor]) -> dict[str, Any]:
    declared = registry()[name]
    operands = Operands(len(xs), declared.base == "required", tuple(xs[0].shape))
    given = example_arguments(declared, operands)
    return given | {"density": (0.4,) * operands.deltas} if "density" in given else given


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (4, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("name", NAMES)
def test_laws(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    xs = inputs_of(name, shape, dtype)
    before = [bits(x) for x in xs]
    results = [merge(name, xs, arguments=arguments_of(name, xs)) for _ in range(2)]
    assert [bits(x) for x in xs] == before, "inputs are untouched"
    assert bits(results[0][0]) == bits(results[1][0]), "deterministic"
    assert (results[0][0].shape, results[0][0].dtype) == (shape, dtype)
    assert results[0][0].isfinite().all()
    assert results[0][1].nonfinite == (0,) * len(xs)


@pytest.mark.parametrize("count", [2, 3, 5, 7])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_identical_inputs_merge_to_themselves(name: str, dtype: torch.dtype, count: int) -> None:
    declared = registry()[name]
    base = declared.base == "required"
    count = max(min(count, (declared.inputs[1] or count) + base), declared.inputs[0] + base)
    xs = [torch.randn(33, 65).to(dtype)] * count
    for flat in (True, False):
        arguments = arguments_of(name, xs)
        if "nuslerp_flatten" in arguments:
            arguments["nuslerp_flatten"] = flat
        assert bits(merge(name, xs, arguments=arguments)[0]) == bits(xs[0])


@pytest.mark.parametrize("name", NAMES)
def test_zeros_merge_to_zeros(name: str) -> None:
    xs = [torch.zeros(3, 4)] * len(inputs_of(name, (1,), torch.float32))
    assert merge(name, xs, arguments=arguments_of(name, xs))[0].eq(0).all()


@pytest.mark.parametrize("shape", [(5,), (6, 8), (2, 3, 4)])
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"slerp", "arcee_fusion", "nearswap"}))
def test_the_order_of_inputs_does_not_matter(name: str, shape: tuple[int, ...]) -> None:
    """Up to the rounding of sums, and with the parameters and streams of the inputs moved along."""
    declared = registry()[name]
    first = int(declared.base == "required")
    xs = inputs_of(name, shape, torch.float32)
    order = list(range(len(xs) - first))[::-1]
    arguments = arguments_of(name, xs)
    scoped = {key for key, p in declared.parameters.items() if p.scope is not Scope.SHARED}
    for key in scoped:  # no two alike
        value, low = arguments[key], declared.parameters[key].low
        steps = [0.05 * i if low is not None else 0.5 * i for i in range(len(value))]
        fixed = isinstance(value[0], bool) or value[0] is None
        arguments[key] = value if fixed else tuple(v + s for v, s in zip(value, steps, strict=True))
    moved = arguments | {key: tuple(arguments[key][i] for i in order) for key in scoped}
    streams = [STREAMS[i] for i in order]
    one, _ = merge(name, xs, arguments=arguments)
    two, _ = merge(
        name, [*xs[:first], *(xs[first + i] for i in order)], arguments=moved, streams=streams
    )
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_zero_give_the_base(name: str) -> None:
    declared = registry()[name]
    if declared.base != "required" or "weight" not in declared.parameters:
        pytest.skip("no weights on what is added to a base")
    xs = inputs_of(name, (6, 8), torch.bfloat16)
    arguments = arguments_of(name, xs)
    for zero in ("weight", "lambda"):
        value = (0.0,) * (len(xs) - 1) if zero == "weight" else 0.0
        y, _ = merge(name, xs, arguments=arguments | {zero: value})
        assert torch.equal(y, xs[0])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_is_counted_and_raises_nothing(name: str, value: float) -> None:
    for shape in ((), (4, 6), (2, BLOCK + 3)):
        xs = inputs_of(name, shape, torch.float32)
        for x in xs[-2:]:
            x.view(-1)[-1] = value
        variants = [arguments_of(name, xs)]
        if "filter_wise" in variants[0]:
            variants.append(variants[0] | {"filter_wise": True})
        if "select_topk" in variants[0]:
            variants.append(variants[0] | {"select_topk": 0.4})
        if "nuslerp_flatten" in variants[0]:
            variants.append(variants[0] | {"nuslerp_flatten": False})
        for arguments in variants:
            _, outcome = merge(name, xs, arguments=arguments)
            assert outcome.nonfinite == (*(0,) * (len(xs) - 2), *(1,) * min(2, len(xs)))


@pytest.mark.parametrize("name", NAMES)
def test_a_nan_shows(name: str) -> None:
    xs = inputs_of(name, (4, 6), torch.float32)
    xs[-1][2, 3] = math.nan
    y, outcome = merge(name, xs, arguments=arguments_of(name, xs))
    assert outcome.nonfinite[-1] == 1
    assert y[2, 3].isnan()


@pytest.mark.parametrize("name", NAMES)
def test_idle_arguments_at_rest_change_nothing(name: str) -> None:
    declared = registry()[name]

    @settings(deadline=None, max_examples=40)
    @given(cases(name))
    def unchanged(case: tuple[list[Tensor], bool, dict[str, Any]]) -> None:
        xs, base, arguments = case
        operands = Operands(len(xs), base, tuple(xs[0].shape), STREAMS)
        if not fits(name, operands, arguments):
            return
        rested = dict(arguments)
        for idle in declared.idle(operands, arguments):
            default, value = declared.parameters[idle].default, arguments[idle]
            default = 0.0 if isinstance(default, Required) else default  # as plans have it
            rested[idle] = (default,) * len(value) if isinstance(value, tuple) else default
        results = [merge(name, xs, base=base, arguments=a)[0] for a in (arguments, rested)]
        assert bits(results[0]) == bits(results[1])

    unchanged()
