"""Large tensors that several threads work on at once: the same bits as one thread makes alone."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, get_ident

import numpy as np
import pytest
import torch
from torch import Tensor

from mergebuild.kernels import Help, Kernels, Outcome, evaluate, walk
from mergebuild.kernels.brackets import Bracket, MagnitudeBrackets
from mergebuild.kernels.choose import default_kernels
from mergebuild.kernels.interface import Gathering, Mergeable
from mergebuild.kernels.operations import BLOCK, Combination, Steps
from mergebuild.kernels.torch import TorchKernels
from mergebuild.kernels.walk import Share, Work
from mergebuild.methods import registry
from mergebuild.methods.declaration import Operands
from tests.methods_reference import STREAMS, Memory, bits, example_arguments

SHAPE = (700, 600)  # six blocks and a half
KERNELS = [default_kernels(), TorchKernels()]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "PART", BLOCK)


def by_threads(work: Sequence[Work]) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda one: one(), work))


def backwards(work: Sequence[Work]) -> None:
    for one in reversed(work):
        one()


def run(
    name: str, tensors: Sequence[Tensor], kernels: Kernels, share: Share | None
) -> tuple[bytes, Outcome]:
    method = registry()[name]
    operands = Operands(len(tensors), method.base == "required", SHAPE, STREAMS)
    arguments = example_arguments(method, operands)
    if "density" in arguments:
        arguments["density"] = (0.5,) * operands.deltas
    readers = [Memory(tensor) for tensor in tensors]
    output = Memory(torch.empty(SHAPE, dtype=torch.bfloat16))
    help = Help(share, lambda: readers) if share is not None else None
    steps = method.run(operands, arguments)
    outcome = evaluate(
        steps, readers, output, "bfloat16", chunk=2 * BLOCK, kernels=kernels, help=help
    )
    return bits(output.tensor), outcome


CASES = [
    *((name, KERNELS[0]) for name in registry() if name not in ("tsv_merge", "iso_c")),
    *((name, KERNELS[1]) for name in ("slerp", "ties", "dare_ties")),
]


@pytest.mark.parametrize(("name", "kernels"), CASES)
def test_parts_give_the_same_bits(name: str, kernels: Kernels) -> None:
    method = registry()[name]
    least, most = method.inputs
    count = (min(3, most) if most is not None else max(3, least)) + (method.base == "required")
    torch.manual_seed(0)
    base = torch.randn(SHAPE)
    tensors = [(base + 0.1 * torch.randn(SHAPE)).bfloat16() for _ in range(count)]
    tensors[-1][300, 7], tensors[-1][699, 599] = torch.inf, torch.nan
    expected = run(name, tensors, kernels, None)
    assert expected[1].nonfinite[-1] == 2
    assert run(name, tensors, kernels, by_threads) == expected
    assert run(name, tensors, kernels, backwards) == expected


def test_parts_are_made_at_the_same_time_with_readers_of_their_own() -> None:
    together, readers = Barrier(3), []
    tensor, made = torch.randn(6 * BLOCK), torch.empty(6 * BLOCK)

    class Together(Memory):
        def read(self, start: int, stop: int, into: memoryview) -> None:
            self.calls.append((get_ident(), 0))
            together.wait(60)
            super().read(start, stop, into)

    def new_readers() -> Sequence[Memory]:
        readers.append(Together(tensor))
        return readers[-1:]

    def steps() -> Steps:
        yield from ()
        return Combination("inputs", (1.0,))

    evaluate(
        steps(), new_readers(), Memory(made), "float32", chunk=BLOCK,
        kernels=KERNELS[0], help=Help(by_threads, new_readers),
    )  # fmt: skip
    assert torch.equal(made, tensor)
    assert len(readers) in (3, 4)  # the first are for the thread that asks, which may rest
    assert all(len({who for who, size in r.calls if size == 0}) <= 1 for r in readers)


def test_what_lies_in_a_bracket_takes_no_more_room_in_parts() -> None:
    """A guess that is far off must not have all parts together keep what one would not."""
    room, size = 5 * BLOCK, BLOCK
    bench = KERNELS[0].bench((BLOCK,), ["float32", "float32"], "float32")
    bench.reserve(size)
    bench.inputs[0][:] = bytes(4 * size)
    bench.inputs[1][:] = np.arange(1, size + 1, dtype=np.float32).tobytes()
    bench.place(0, size)
    statistic = MagnitudeBrackets((0,), ((Bracket(0, 2**31 - 1, room),),))

    def part() -> Gathering:
        made = bench.begin(statistic)
        made.add()
        return made

    part()  # compiles
    tracemalloc.start()
    whole, most = bench.begin(statistic), 0
    assert isinstance(whole, Mergeable)
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(40):
        whole.merge(part())
        most = max(most, tracemalloc.get_traced_memory()[0] - before)
    tracemalloc.stop()
    assert 4 * BLOCK < most < 4 * room + (1 << 20)
    ((found,),) = whole.value()
    assert (found.below, found.low, found.high, found.between) == (0, 0, 0, None)
