#!/usr/bin/env python3
"""How builds scale: over threads, and over the size of the models, in time per byte.

    python benchmarks/scaling.py --sizes 0.1 0.3 1 --threads 1 2 --methods linear dare_ties

A byte is one that has to be read or written: all inputs once, the output once. "Building" leaves
out what does not grow with the models: start-up and planning, before the build begins.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path.insert(0, str(ROOT))

from benchmarks.build import Bench
from benchmarks.models import make, of_size
from benchmarks.recipes import METHODS, sources
from benchmarks.report import machine, table
from benchmarks.runs import warm


def measure(
    folder: Path, models: Sequence[Path], threads: int, methods: Sequence[str], rounds: int
) -> list[list[str]]:
    bench = Bench(folder, models, threads, None)
    for _ in range(rounds):
        for method in methods:
            bench.round(method)
    size = (models[0] / "model.safetensors").stat().st_size
    rows = []
    for method in methods:
        bytes_ = size * (len(sources(method, models)) + 1)
        walls = {what: median(run.wall for run in bench.runs[method, what])
                 for what in ("floor+fsync", "cold", "remembered")}  # fmt: skip
        walls["building"] = median(run.building for run in bench.runs[method, "remembered"])
        anonymous = max(run.anonymous for run in bench.runs[method, "cold"])
        per_byte = [f"{wall * 1e9 / bytes_:.3f}" for wall in walls.values()]
        rows.append([method, f"{size / 1e9:.2f}", str(threads), *per_byte,
                     f"{walls['remembered']:.2f}", f"{anonymous:.0f}"])  # fmt: skip
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", nargs="+", type=float, default=[0.1, 0.3],
                        help="billions of parameters (0.1 0.3 1 3)")  # fmt: skip
    parser.add_argument("--threads", nargs="+", type=int,
                        default=sorted({1, len(os.sched_getaffinity(0))}))  # fmt: skip
    parser.add_argument("--methods", nargs="+", default=["linear", "dare_ties"], choices=METHODS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="where to work (default: the temporary folder)")
    options = parser.parse_args(arguments)
    rows = []
    for size in options.sizes:
        with tempfile.TemporaryDirectory(dir=options.work, prefix="mergebuild-scale-") as name:
            folder = Path(name)
            models = make(folder / "models", of_size(size))
            warm([path / "model.safetensors" for path in models])
            for threads in options.threads:
                rows += measure(folder, models, threads, options.methods, options.rounds)
    print(machine())
    print(f"\nns per byte read or written, medians of {options.rounds} rounds\n")
    rows.sort(key=lambda row: (row[0], int(row[2]), float(row[1])))
    heads = ["method", "GB", "threads", "floor+fsync", "cold", "known", "building", "known s",
             "anon MiB"]  # fmt: skip
    print(table(heads, rows))


if __name__ == "__main__":
    main()
