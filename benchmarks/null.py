#!/usr/bin/env python3
"""The null build: what a build costs that finds everything fresh.

    python benchmarks/null.py --nodes 10 20 --tensors 300 5000

Also the plan of a recipe that was never built, digests of sources being known.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path.insert(0, str(ROOT))

from benchmarks.models import make, of_tensors
from benchmarks.report import machine, table
from benchmarks.runs import command


def chain(models: Sequence[Path], nodes: int) -> str:
    """A recipe where every node merges the one before with a model."""
    lines = ["mergebuild: 1", "name: null", "sources:"]
    lines += [f"  {path.name}: {path}" for path in models]
    lines.append("nodes:")
    before = "a"
    for node in range(nodes):
        lines += [
            f"  n{node}:",
            "    merge_method: task_arithmetic",
            "    base_model: base",
            "    models:",
            f"      - {{model: {before}, parameters: {{weight: 0.5}}}}",
            f"      - {{model: b, parameters: {{weight: {0.1 + node / 100}}}}}",
            "    dtype: bfloat16",
        ]
        before = f"n{node}"
    lines += ["outputs:", f"  {before}: out"]
    return "\n".join(lines) + "\n"


def measure(folder: Path, nodes: int, tensors: int, rounds: int) -> list[str]:
    shape = of_tensors(tensors)
    models = make(folder / "models", shape)
    recipe = folder / "recipe.yaml"
    recipe.write_text(chain(models, nodes), encoding="utf-8")
    program = [sys.executable, "-m", "mergebuild"]
    here = {
        "PYTHONPATH": str(ROOT),
        "PYTHONPYCACHEPREFIX": str(folder / "compiled"),  # as an installed package has it
        "PYTHONDONTWRITEBYTECODE": "",
    }
    cache = ["--cache", str(folder / "cache")]
    time.sleep(2.5)  # digests of younger files are not remembered
    command([*program, "plan", str(recipe), *cache], here, folder)
    plans = [command([*program, "plan", str(recipe), *cache], here, folder) for _ in range(rounds)]
    first = command([*program, "build", str(recipe), *cache], here, folder)
    nulls = [command([*program, "build", str(recipe), *cache], here, folder) for _ in range(rounds)]
    return [
        str(nodes),
        str(len(shape.tensors())),
        f"{median(run.wall for run in plans):.2f}",
        f"{first.wall:.2f}",
        f"{median(run.wall for run in nulls):.2f}",
        f"{min(run.wall for run in nulls):.2f}",
        f"{median(run.resident for run in nulls):.0f}",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--nodes", nargs="+", type=int, default=[10, 20])
    parser.add_argument("--tensors", nargs="+", type=int, default=[300, 5000])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    rows = []
    for nodes in options.nodes:
        for tensors in options.tensors:
            with tempfile.TemporaryDirectory(prefix="mergebuild-null-") as name:
                rows.append(measure(Path(name), nodes, tensors, options.rounds))
    print(machine())
    print(f"\nSeconds of wall time, of {options.rounds} rounds; tiny tensors\n")
    heads = ["nodes", "tensors each", "first plan", "first build", "null build", "least", "MiB"]
    print(table(heads, rows))


if __name__ == "__main__":
    main()
