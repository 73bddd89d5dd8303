"""Products of whole matrices, matrices walked across, and what is decomposed from them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mergebuild.kernels import BLOCK, Steps, evaluate, turned
from mergebuild.kernels.matrices import CrossProducts, DeltaProducts, Multiplied, tile_rows
from mergebuild.kernels.operations import Combination, Identity, Turn
from mergebuild.kernels.turned import TurnedReader
from mergebuild.methods import registry
from mergebuild.methods.declaration import Operands
from mergebuild.methods.spectral import inverse_root
from tests.methods_reference import KERNELS, Memory

SHAPES = [(1, 1), (5, 3), (700, 300), (3 * 2**19 // 64 + 7, 64)]  # tiles, strips and ends of both


def matrices(shape: tuple[int, int], count: int = 3, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(sum(shape))
    base = torch.randn(shape).mul_(0.02)
    return [(base + 0.01 * torch.randn(shape) * (i > 0)).to(dtype) for i in range(count)]


def run(steps: Steps, xs: list[Tensor], chunk: int = BLOCK) -> Tensor:
    out = torch.empty(xs[0].shape)
    evaluate(steps, list(map(Memory, xs)), Memory(out), "float32", chunk=chunk, kernels=KERNELS)
    return out


def gathered(statistic: Any, xs: list[Tensor], chunk: int = BLOCK) -> Any:
    found = []

    def steps() -> Steps:
        found.append((yield statistic))
        return Identity()

    run(steps(), xs, chunk)
    return found[0]


def merged(name: str, xs: list[Tensor], chunk: int = BLOCK) -> Tensor:
    operands = Operands(len(xs), True, tuple(xs[0].shape), ())
    return run(registry()[name].run(operands, {"lambda": 0.7}), xs, chunk)


@pytest.mark.parametrize("shape", SHAPES)
def test_products(shape: tuple[int, int]) -> None:
    xs = matrices(shape)
    ds = [(x - xs[0]).double() for x in xs[1:]]
    for deltas, d in (((0,), ds[0]), ((1,), ds[1]), ((0, 1), ds[0] + ds[1])):
        found = gathered(DeltaProducts(deltas), xs)
        assert torch.equal(found, found.T)
        torch.testing.assert_close(found, d.T @ d, rtol=1e-12, atol=1e-16 * shape[0])
    ms = tuple(torch.randn(shape[1], wide, dtype=torch.float64) for wide in (2, 3))
    left, right = (d @ m for d, m in zip(ds, ms, strict=True))
    expected = torch.zeros(5, 5, dtype=torch.float64)
    expected[:2, 2:] = left.T @ right
    found = gathered(CrossProducts(ms), xs)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-13 * shape[0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2])
def test_multiplied(shape: tuple[int, int], dtype: torch.dtype, count: int) -> None:
    xs = matrices(shape)
    ms = tuple(torch.randn(shape[1], shape[1], dtype=dtype) for _ in range(count))

    def steps() -> Steps:
        yield from ()
        return Multiplied(ms)

    ds = [(x - xs[0]).double() for x in xs[1:]]
    factors = ds if count == 2 else [sum(ds)]
    made = sum(d @ m.double() for d, m in zip(factors, ms, strict=True))
    bound = 1e-7 if dtype == torch.float64 else 1e-6
    assert (run(steps(), xs) - (xs[0].double() + made)).abs().max() < bound * (1 + made.abs().max())


@pytest.mark.parametrize("shape", [(700, 300), (300, 700), (64, 70_000), (70_000, 8)])
@pytest.mark.parametrize("name", ["tsv_merge", "iso_c"])
def test_chunks_change_no_bit(name: str, shape: tuple[int, int]) -> None:
    xs = matrices(shape, dtype=torch.bfloat16)
    assert torch.equal(merged(name, xs), merged(name, xs, 16 * BLOCK))


def test_a_tile_is_of_one_size_for_any_chunk() -> None:
    assert [tile_rows(shape) for shape in ((9, 2048), (9, 1), (9, 1 << 20))] == [256, 2**19, 32]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 9), (7, 1), (40, 33), (33, 40)])
@pytest.mark.parametrize("strip", [1, 100, 1 << 22])
def test_matrices_across(
    monkeypatch: Any, dtype: torch.dtype, shape: tuple[int, int], strip: int
) -> None:
    monkeypatch.setattr(turned, "_STRIP", strip)
    monkeypatch.setattr(turned, "_PIECE", strip)
    x = torch.arange(math.prod(shape)).view(shape).to(dtype)
    reader = TurnedReader(Memory(x))
    assert reader.shape == shape[::-1]
    for start, stop in ((0, x.numel()), (2, 5), (x.numel() - 1, x.numel())):
        into = torch.empty(stop - start, dtype=dtype)
        reader.read(start, stop, into.view(torch.uint8).numpy().data)
        assert torch.equal(into, x.T.reshape(-1)[start:stop])

    def steps() -> Steps:
        yield Turn()
        return Combination("inputs", (2.0,))

    assert torch.equal(run(steps(), [x]), 2 * x.float())


def exact(name: str, xs: list[Tensor]) -> Tensor:
    """By singular values in float64."""

    def polar(matrix: Tensor) -> Tensor:
        u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
        return torch.mm(u, vh)

    ds = [(x - xs[0]).double() for x in xs[1:]]
    if name == "iso_c":
        total = torch.stack(ds).sum(0)
        return polar(total).mul_(torch.linalg.svdvals(total).mean())
    kept = max(1, min(ds[0].shape) // len(ds))
    u, s, vh = zip(*(torch.linalg.svd(d, full_matrices=False) for d in ds), strict=True)
    left, right = (
        polar(torch.cat([one[:, :kept] for one in u], 1)),
        torch.cat([v[:kept] for v in vh]),
    )
    return torch.mm(left * torch.cat([one[:kept] for one in s]), polar(right))


@pytest.mark.parametrize("shape", [(90, 90), (90, 200), (200, 90), (2, 300)])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["tsv_merge", "iso_c"])
@pytest.mark.parametrize("size", [1e-15, 1.0, 1e15])
def test_as_a_decomposition_has_it(
    name: str, shape: tuple[int, int], count: int, size: float
) -> None:
    xs = [x * size for x in matrices(shape, 1 + count)]
    expected = exact(name, xs)
    bound = 2e-6 * float(expected.abs().max()) + 1e-7 * float(xs[0].abs().max())
    assert (merged(name, xs) - (xs[0].double() + 0.7 * expected)).abs().max() <= bound


@pytest.mark.parametrize("spread", [1e-2, 1e-4])
def test_small_singular_values_count(spread: float) -> None:
    """All but one direction are small: products in float32 would lose them."""
    u, v = (torch.linalg.qr(torch.randn(80, 80, dtype=torch.float64))[0] for _ in range(2))
    s = torch.full((80,), spread, dtype=torch.float64)
    s[0] = 1.0
    d = (u * s @ v).float()
    xs = [torch.zeros_like(d), d]
    expected = 0.7 * exact("iso_c", xs)
    assert (merged("iso_c", xs) - expected).abs().max() < 1e-6 * expected.abs().max()


@pytest.mark.parametrize("shape", [(30, 30), (30, 50), (50, 30)])
def test_directions_that_are_nothing_stay_out(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    u = torch.linalg.qr(torch.randn(shape[0], 4, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(shape[1], 4, dtype=torch.float64))[0]
    d = u * torch.tensor([4.0, 3.0, 2.0, 1.0]) @ v.T
    xs = [torch.zeros(shape), d.float()]
    torch.testing.assert_close(
        merged("iso_c", xs).double(), 0.7 * (10 / 30) * (u @ v.T), rtol=0, atol=1e-6
    )
    same = merged("tsv_merge", [*xs, d.float()])  # one task, twice
    torch.testing.assert_close(same.double(), 0.7 * d, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["tsv_merge", "iso_c"])
def test_nothing_at_all(name: str) -> None:
    xs = [torch.ones(20, 9)] * 3
    assert torch.equal(merged(name, xs), xs[0])


def test_inverse_roots() -> None:
    """Of groups that share a direction, have some at any angle, and one that is all their own."""
    angles = torch.tensor([0.0, 1e-3, 0.7, 1.5, math.pi / 2], dtype=torch.float64)
    between = torch.zeros(10, 10, dtype=torch.float64)
    p = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    q = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    between[:5, 5:] = p * angles.cos() @ q.T
    root = inverse_root(between, 5)
    whole = between + between.T + torch.eye(10, dtype=torch.float64)
    squares, vectors = torch.linalg.eigh(whole)
    kept = squares > 1e-12
    expected = (vectors[:, kept] * squares[kept].rsqrt()) @ vectors[:, kept].T
    torch.testing.assert_close(root, expected, rtol=1e-6, atol=1e-6)
