#!/usr/bin/env python3
"""What a method costs per element and core, by kernels: no files, the data in memory.

    python benchmarks/kernels.py --rounds 5 --threads 1 2
    python benchmarks/kernels.py --kernels numba cuda --chunk 2097152

Each thread evaluates tensors of its own. On the CPU the figure is processor time / elements of
output, all threads together; with a GPU it is wall time x threads / elements.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import machine, table
from mergebuild.kernels import Kernels, evaluate
from mergebuild.kernels.choose import torch_kernels
from mergebuild.methods import registry
from mergebuild.methods.declaration import Operands

SHAPE = (2048, 2048)
STREAMS = ((0x56582268, 0x47B42919), (1, 2), (3, 4))
_SPARSE: dict[str, Any] = {"weight": (0.5, 0.5), "density": (0.5, 0.5), "lambda_": 1.0}
_RANDOM: dict[str, Any] = {**_SPARSE, "normalize": True, "seed": 0}
_RANKED: dict[str, Any] = {**_RANDOM, "epsilon": (0.15, 0.15)}
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "passthrough": ("passthrough", 1, {"scale": (0.5,)}),
    "linear": ("linear", 2, {"weight": (0.5, 0.5), "normalize": True}),
    "slerp": ("slerp", 2, {"t": 0.4}),
    "nuslerp": (
        "nuslerp",
        3,
        {"weight": (0.5, 0.5), "nuslerp_flatten": True, "nuslerp_row_wise": False},
    ),
    "nuslerp by row": (
        "nuslerp",
        3,
        {"weight": (0.5, 0.5), "nuslerp_flatten": False, "nuslerp_row_wise": False},
    ),
    "nuslerp by column": (
        "nuslerp",
        3,
        {"weight": (0.5, 0.5), "nuslerp_flatten": False, "nuslerp_row_wise": True},
    ),
    "task_arithmetic": (
        "task_arithmetic",
        3,
        {"weight": (0.5, 0.5), "normalize": False, "lambda_": 1.0},
    ),
    "ties": ("ties", 3, {**_SPARSE, "normalize": True, "rescale": False}),
    "breadcrumbs": (
        "breadcrumbs",
        3,
        {**_SPARSE, "gamma": (0.01, 0.01), "normalize": False, "rescale": False},
    ),
    "dare_ties, no rescale": (
        "dare_ties",
        3,
        {**_RANDOM, "normalize": False, "rescale": False},
    ),
    "dare_ties, inverse": ("dare_ties", 3, {**_RANDOM, "rescale": "inverse"}),
    "dare_ties, rescale": ("dare_ties", 3, {**_RANDOM, "rescale": True}),
    "della, no rescale": ("della", 3, {**_RANKED, "rescale": False}),
    "della, inverse": ("della", 3, {**_RANKED, "rescale": "inverse"}),
    "della, rescale": ("della", 3, {**_RANKED, "rescale": True}),
    "arcee_fusion": ("arcee_fusion", 2, {}),
    "sce": ("sce", 3, {"select_topk": 0.5, "floor": 1e-6}),
    "sce, all places": ("sce", 3, {"select_topk": 1.0, "floor": 1e-6}),
    "ramplus_tl": ("ramplus_tl", 3, {"r": 0.1, "alpha": 0.2, "epsilon": 1e-5}),
    "consensus_ta": (
        "consensus_ta",
        3,
        {"mask_lambda": (0.4, 0.4), "min_agree": 2, "lambda_": 1.0},
    ),
    "pcb_merging": ("pcb_merging", 3, {"density": (0.5, 0.5), "lambda_": 1.0}),
}


@dataclass
class Memory:
    """A bfloat16 tensor in memory."""

    data: memoryview
    shape: tuple[int, ...] = SHAPE
    dtype: str = "bfloat16"

    def read(self, start: int, stop: int, into: memoryview) -> None:
        into[:] = self.data[2 * start : 2 * stop]

    @property
    def unit(self) -> int:
        return 1

    def part(self, start: int) -> Memory:
        return self

    def flush(self) -> None:
        pass

    def room(self, start: int, size: int) -> memoryview:
        return self.data[2 * start : 2 * start + size]

    def write(self, start: int, data: memoryview) -> None:
        self.data[2 * start : 2 * start + len(data)] = data


def tensors(count: int, seed: int) -> list[Memory]:
    """A base of deviation 0.02 and others near it, rounded to bfloat16."""
    generator = np.random.default_rng(seed)
    base = generator.standard_normal(SHAPE, np.float32) * np.float32(0.02)
    found = []
    for i in range(count):
        near = generator.standard_normal(SHAPE, np.float32) * np.float32(1e-3)
        found.append(Memory(bfloat16(base + near if i else base).data))
    return found


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    words = values.view(np.uint32)
    odd = words >> np.uint32(16) & np.uint32(1)
    return (
        ((words + np.uint32(0x7FFF) + odd) >> np.uint32(16))
        .astype(np.uint16)
        .reshape(-1)
        .view(np.uint8)
    )


def nanoseconds(
    case: str, kernels: Kernels, threads: int, chunk: int, rounds: int, *, wall: bool = False
) -> float:
    """The least of several rounds, each on all threads at once."""
    name, count, arguments = CASES[case]
    method = registry()[name]
    based = method.base == "required" or count == 3
    operands = Operands(count, based, SHAPE, STREAMS)
    inputs = [tensors(count, seed) for seed in range(threads)]
    outputs = [Memory(memoryview(bytearray(2 * operands.elements))) for _ in range(threads)]

    def work(thread: int) -> None:
        evaluate(
            method.run(operands, arguments),
            inputs[thread],
            outputs[thread],
            "bfloat16",
            chunk=chunk,
            kernels=kernels,
        )

    work(0)  # compiles
    best = min(timed(work, threads, wall) for _ in range(rounds))
    return best * 1e9 / operands.elements


def timed(work: Callable[[int], None], threads: int, wall: bool) -> float:
    """Seconds for the tensor of each thread."""
    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    clock = time.perf_counter if wall else time.process_time
    began = clock()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return (clock() - began) / (1 if wall else threads)


def kernels_of(name: str) -> Kernels:
    if name == "numba":
        from mergebuild.kernels.numba import NumbaKernels

        return NumbaKernels(torch_kernels)
    import torch

    from mergebuild.kernels.torch import TorchKernels

    torch.set_num_threads(1)
    return TorchKernels("cpu" if name == "torch" else name)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--kernels", nargs="+", default=["torch", "numba"], help="torch, numba, or a GPU: cuda"
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--chunk", nargs="+", type=int, default=[131072], help="elements")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=list(CASES), choices=CASES)
    options = parser.parse_args(arguments)
    columns = [(k, t, c) for k in options.kernels for t in options.threads for c in options.chunk]
    rows = []
    for case in options.only:
        figures = [
            nanoseconds(case, kernels_of(k), t, c, options.rounds, wall=k not in ("numba", "torch"))
            for k, t, c in columns
        ]
        rows.append([case, *(f"{figure:.2f}" for figure in figures)])
    print(machine())
    print(f"\nns per element and core, bfloat16, least of {options.rounds}\n")
    heads = [f"{k}, {t} thr., {c // 1024} Ki" for k, t, c in columns]
    print(table(["method", *heads], rows))


if __name__ == "__main__":
    main()
