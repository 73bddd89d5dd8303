"""Computing elsewhere: what `--device` takes, that devices are not mixed, what a GPU makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mergebuild as mb
from mergebuild.errors import BuildError, CapacityError, UsageError
from mergebuild.kernels import BLOCK, Kernels, Outcome, Steps, evaluate
from mergebuild.kernels.choose import VARIABLE, check_device
from mergebuild.kernels.interface import Bench
from mergebuild.kernels.operations import Identity, Map, Random, Sparse, TaskVectors
from mergebuild.kernels.torch import TorchKernels, device
from mergebuild.kernels.torch.masks import mask
from mergebuild.methods import registry
from mergebuild.methods.declaration import Arguments, Operands
from mergebuild.plan.model import Settings
from tests import kit
from tests.elsewhere import Mixed, elsewhere
from tests.methods_reference import STREAMS, Memory, bits, example_arguments
from tests.test_cli import snapshot
from tests.test_incremental import RECIPE

HERE = TorchKernels()
GPU = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not GPU, reason="there is no GPU")
# Whole matrices are decomposed by other libraries there: relative to the largest result.
TOLERANCE = 1e-4


def run(
    steps: Steps, tensors: Sequence[Tensor], dtype: torch.dtype, kernels: Kernels, chunk: int
) -> tuple[Tensor, Outcome]:
    output = torch.empty(tensors[0].shape, dtype=dtype)
    readers, writer = [Memory(tensor) for tensor in tensors], Memory(output)
    return output, evaluate(steps, readers, writer, writer.dtype, chunk=chunk, kernels=kernels)


def mapping(operation: Map) -> Steps:
    yield from ()
    return operation


# Every method, in every way that takes other operations.

EXTRA: dict[str, list[dict[str, Any]]] = {
    "linear": [{"normalize": False}],
    "nuslerp": [
        {"nuslerp_flatten": False},
        {"nuslerp_flatten": False, "nuslerp_row_wise": True},
    ],
    "model_stock": [{"filter_wise": True}],
    "sce": [{"select_topk": 0.3, "floor": 0.0}],
    "ties": [{"rescale": True, "normalize": True}],
    "dare_linear": [{"rescale": "inverse", "normalize": True}],
    "dare_ties": [{"rescale": True}],
    "della": [{"rescale": "inverse"}, {"rescale": True}],
    "breadcrumbs": [{"rescale": True}],
}
WAYS = [(name, more) for name in registry().built_in for more in ({}, *EXTRA.get(name, []))]


def case(
    name: str, more: Arguments, shape: tuple[int, ...]
) -> tuple[list[Tensor], Operands, dict[str, Any]]:
    method = registry()[name]
    base = method.base != "ignored"
    count = min(3, method.inputs[1] or 3) + base
    torch.manual_seed(0)
    first = torch.randn(shape) * 0.02
    tensors = [first + 0.001 * torch.randn(shape) * (i > 0) for i in range(count)]
    operands = Operands(count, base, shape, STREAMS)
    arguments = example_arguments(method, operands) | dict(more)
    if "density" in arguments:
        arguments["density"] = (0.5,) * operands.deltas
    return tensors, operands, arguments


def both(
    name: str, more: Arguments, dtype: torch.dtype, kernels: Kernels, shape: tuple[int, ...]
) -> tuple[tuple[Tensor, Outcome], tuple[Tensor, Outcome]]:
    """What the CPU makes in one chunk, and what other kernels make in small ones."""
    tensors, operands, arguments = case(name, more, shape)
    tensors = [tensor.to(dtype) for tensor in tensors]
    here, there = (
        run(registry()[name].run(operands, arguments), tensors, dtype, some, chunk)
        for some, chunk in ((HERE, 8 * BLOCK), (kernels, BLOCK))
    )
    return here, there


@pytest.mark.parametrize(("name", "more"), WAYS)
def test_no_operation_mixes_devices(name: str, more: Arguments) -> None:
    with elsewhere() as place:
        here, there = both(name, more, torch.bfloat16, TorchKernels(place), (130, 600))
    assert bits(there[0]) == bits(here[0])
    assert there[1] == here[1]


def test_mixing_is_noticed() -> None:
    with elsewhere() as place:
        away, near = torch.ones(3, device=place), torch.ones(3)
        assert (away + torch.tensor(2.0)).cpu().tolist() == [3.0] * 3
        assert near.copy_(away.mul_(5)).tolist() == [5.0] * 3
        mixes: list[Callable[[], Tensor]] = [
            lambda: away + near,
            lambda: near.mul_(away),
            lambda: away[torch.tensor([0])],
            lambda: torch.stack([away, near]),
            lambda: torch.add(near, near, out=away),
        ]
        for mix in mixes:
            with pytest.raises(Mixed):
                mix()
        with pytest.raises(RuntimeError):
            away.numpy()
    with pytest.raises(Mixed, match="outside"):
        away.add_(1)


# The ring of buffers.


def values(count: int) -> Tensor:
    """float32, of which some are not finite and some too large for float16."""
    x = torch.arange(count, dtype=torch.float32)
    x[3], x[BLOCK + 1], x[-1] = math.nan, math.inf, -math.inf
    return x


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK + 7, 2 * BLOCK, 5 * BLOCK + 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_no_chunk_is_lost_or_taken_twice(count: int, dtype: torch.dtype) -> None:
    x = values(count) if count > BLOCK + 1 else torch.arange(count, dtype=torch.float32)
    for operation in (Identity(), TaskVectors((), scale=1.0)):
        here = run(mapping(Identity()), [x], dtype, HERE, BLOCK)
        with elsewhere() as place:
            kernels = TorchKernels(place)
            if isinstance(operation, Identity):
                there = run(mapping(operation), [x], dtype, kernels, BLOCK)
            else:
                zeros = torch.zeros(count)
                sum_of = TaskVectors((Sparse(1.0),))
                there = run(mapping(sum_of), [zeros, x], dtype, kernels, BLOCK)
                here = run(mapping(sum_of), [zeros, x], dtype, HERE, BLOCK)
        assert bits(there[0].nan_to_num(9)) == bits(here[0].nan_to_num(9))
        assert there[1] == here[1]


def test_the_next_chunk_is_read_while_an_output_is_under_way() -> None:
    log: list[str] = []

    class Reader(Memory):
        def read(self, start: int, stop: int, into: memoryview) -> None:
            log.append(f"read {start // BLOCK}")
            super().read(start, stop, into)

    class Writer(Memory):
        def write(self, start: int, data: memoryview) -> None:
            log.append(f"write {start // BLOCK}")
            super().write(start, data)

    x, y = torch.randn(3 * BLOCK), torch.empty(3 * BLOCK)
    with elsewhere() as place:
        evaluate(
            mapping(TaskVectors((Sparse(1.0),))),
            [Memory(torch.zeros(3 * BLOCK)), Reader(x)],
            Writer(y),
            "float32",
            chunk=BLOCK,
            kernels=TorchKernels(place),
        )
    assert log == ["read 0", "read 1", "write 0", "read 2", "write 1", "write 2"]
    assert torch.equal(x, y)


def test_buffers_take_turns_on_a_device_and_not_on_the_cpu() -> None:
    with elsewhere() as place:
        bench: Bench = TorchKernels(place).bench((8,), ["float32"], "float32")
        bench.reserve(4)
        first = bench.inputs[0]
        bench.place(0, 4)
        second = bench.inputs[0]
        bench.place(4, 4)
        assert bench.inputs[0] is first is not second
    near = HERE.bench((8,), ["float32"], "float32")
    near.reserve(4)
    first = near.inputs[0]
    near.place(0, 4)
    assert near.inputs[0] is first
    assert (near.lag, bench.lag) == (0, 1)


# What is asked for, and what becomes of failures.


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "mps", "CUDA", "cpu:0"])
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is no device to compute on") as refused:
        check_device(name)
    assert refused.value.problems[0].hint == "known are cpu, cuda and cuda:N"


def test_kernels_that_were_asked_for_by_name_may_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "numba")
    check_device("cpu")
    with pytest.raises(UsageError, match="computes on the CPU only"):
        check_device("cuda")


@pytest.mark.parametrize(
    ("version", "count", "name", "why"),
    [
        (None, 0, "cuda", "torch .* is built without it"),
        ("13.0", 0, "cuda", "torch finds no GPU\n"),
        ("13.0", 1, "cuda:1", "there is 1, numbered from 0"),
        ("13.0", 2, "cuda:7", "there are 2, numbered from 0"),
    ],
)
def test_why_a_device_cannot_be_used(
    version: str | None, count: int, name: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(torch.version, "cuda", version)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(UsageError, match=f"device '{name}' cannot be used: {why}") as refused:
        check_device(name)
    assert refused.value.exit_code == 2


@pytest.mark.skipif(GPU, reason="there is a GPU")
@pytest.mark.parametrize("arguments", [("cuda",), ("cuda:3", "--check", "dare")])
def test_without_a_gpu_nothing_is_written(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    kit.base_and_two(tmp_path, layers=1)
    kit.write_recipe(tmp_path / "recipe.yaml", RECIPE)
    before = snapshot(tmp_path)
    result = kit.run("build", "recipe.yaml", "--device", *arguments, cwd=tmp_path)
    assert result.code == 2, result
    assert result.stderr.startswith(f"error: device '{arguments[0]}' cannot be used: ")
    assert "\nhint: without --device" in result.stderr
    assert snapshot(tmp_path) == before
    with pytest.raises(UsageError, match="'cuda'"):
        mb.plan(tmp_path / "recipe.yaml", settings=Settings(device="cuda"))


def test_failures_of_a_device_are_told_as_such() -> None:
    full = pytest.raises(CapacityError, match="'cuda:1' has too little memory: Tried")
    with full as caught, device.computing("cuda:1"):
        raise torch.cuda.OutOfMemoryError("Tried to allocate 2 GiB.\nMore text.")
    assert caught.value.exit_code == 4
    assert "--jobs" in str(caught.value.problems[0].hint)
    with pytest.raises(BuildError, match="'cuda' failed: an illegal"), device.computing("cuda"):
        raise torch.AcceleratorError("an illegal memory access")
    with pytest.raises(BuildError, match="node 'x'"), device.computing("cuda"):
        raise BuildError.of("node 'x': is not finite")


def test_a_device_is_asked_for_larger_pieces() -> None:
    assert Settings().elements < Settings(device="cuda").elements
    assert Settings(device="cuda").elements == 32 * BLOCK
    assert Settings(chunk=BLOCK, device="cuda").elements == BLOCK


# On a real GPU.


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("name", "more"), WAYS)
def test_a_gpu_makes_the_same_bits(name: str, more: Arguments, dtype: torch.dtype) -> None:
    here, there = both(name, more, dtype, TorchKernels("cuda"), (300, 700))
    assert there[1] == here[1]
    if not registry()[name].whole:
        assert bits(there[0]) == bits(here[0])
        return
    off = (there[0].double() - here[0].double()).abs().max()
    rounding = 2**-8 if dtype is torch.bfloat16 else 0.0
    assert off <= (TOLERANCE + rounding) * here[0].double().abs().max()


@needs_gpu
@pytest.mark.parametrize("start", [0, 2**31 - 3, 2**32 - 40, 7 * 2**32 + 5])
def test_a_gpu_draws_the_same_masks(start: int) -> None:
    kept = []
    for place in ("cpu", "cuda"):
        bench = TorchKernels(place).bench((2**40,), ["float32"], "float32")
        bench.reserve(100)
        bench.place(start, 100)
        ones = torch.ones(100, device=place)
        kept.append(mask(Random(0.3, STREAMS[0]), ones, bench).cpu().tolist())
    assert kept[0] == kept[1]
    assert 0 < sum(kept[0]) < 100


@needs_gpu
def test_a_gpu_builds_the_same_files(tmp_path: Path) -> None:
    kit.base_and_two(tmp_path, layers=2)
    kit.write_recipe(tmp_path / "recipe.yaml", RECIPE)
    for place in ("cpu", "cuda"):
        arguments = ("--device", place, "--cache", place, "--out", f"out-{place}")
        result = kit.run("build", "recipe.yaml", *arguments, cwd=tmp_path)
        assert result.code == 0, result.stderr
    here, there = (kit.read(tmp_path / f"out-{place}") for place in ("cpu", "cuda"))
    assert {name: bits(t) for name, t in here.items()} == {n: bits(t) for n, t in there.items()}
    assert "computed on cuda" in kit.run("inspect", "out-cuda", cwd=tmp_path).stdout
    again = kit.run("build", "recipe.yaml", "--cache", "cuda", "--out", "out-cuda", cwd=tmp_path)
    assert "fresh, nothing to do" in again.stderr
    checked = kit.run(
        "build", "recipe.yaml", "--check", "dare", "--device", "cuda", "--cache", "cpu",
        cwd=tmp_path,
    )  # fmt: skip
    assert checked.code == 0, checked
