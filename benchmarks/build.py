#!/usr/bin/env python3
"""Whole builds: mergebuild, mergekit, and the floor, which is plain reading and writing.

    python benchmarks/build.py --size 0.1 --rounds 3 --methods linear ties
    python benchmarks/build.py --methods "chain, keep: cache" "chain, keep: never"
    MERGEBUILD_ORACLE=/path/to/venv python benchmarks/build.py --size 1

All take turns on the same files and disk, inputs in the page cache. mergebuild runs cold, with an
empty cache, and again when it knows its sources' digests but has to compute all. The floor is
taken with and without fsync: mergebuild syncs what it publishes, mergekit does not. In a chain of
two merges it writes as much as both results hold where the first is kept, else as the last.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path.insert(0, str(ROOT))

from benchmarks.models import make, of_size
from benchmarks.recipes import CASES, METHODS, OURS, recipe, results, sources
from benchmarks.report import machine, table
from benchmarks.runs import Run, command, floor, settle, warm


@dataclass
class Bench:
    """A folder with models, where all is done."""

    folder: Path
    models: Sequence[Path]
    threads: int
    oracle: Path | None
    ready: bool = True
    runs: dict[tuple[str, str], list[Run]] = field(default_factory=dict)

    def round(self, method: str) -> None:
        """Everything once, in turn."""
        file = self.folder / f"{method.replace(': ', '-').replace(', ', '-')}.yaml"
        file.write_text(recipe(method, self.models), encoding="utf-8")
        inputs = [path / "model.safetensors" for path in sources(method, self.models)]
        scratch = self.folder / "floor.bin"
        made, threads = results(method), self.threads
        for what, sync in (("floor", False), ("floor+fsync", True)):
            self._note(method, what, partial(floor, inputs, scratch, threads, made, sync=sync))
        self._clear("cache", "out")
        self._note(method, "cold", lambda: self.mergebuild(file))
        self._clear("cache/checkpoints", "cache/index.db", "out")
        self._note(method, "remembered", lambda: self.mergebuild(file))
        self._clear("cache", "out")
        if self.oracle is not None and method in METHODS and method not in OURS:
            self._note(method, "mergekit", lambda: self.mergekit(file))
            self._clear("out")

    def mergebuild(self, file: Path) -> Run:
        folders = ["--cache", str(self.folder / "cache"), "--out", str(self.folder / "out")]
        arguments = [sys.executable, "-m", "mergebuild", "build", str(file), *folders]
        return command([*arguments, "--jobs", str(self.threads)], cwd=ROOT)

    def mergekit(self, file: Path) -> Run:
        assert self.oracle is not None
        program = str(self.oracle / "bin" / "mergekit-yaml")
        options = ["--no-copy-tokenizer", "--no-write-model-card", "--quiet"]
        variables = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(self.threads)}
        return command([program, str(file), str(self.folder / "out"), *options], variables)

    def _note(self, method: str, what: str, run: Callable[[], Run]) -> None:
        size = (self.models[0] / "model.safetensors").stat().st_size
        settle(self.folder, results(method) * size + (1 << 29), ready=self.ready)
        self.runs.setdefault((method, what), []).append(run())

    def _clear(self, *names: str) -> None:
        for name in names:
            path = self.folder / name
            if path.is_dir():
                for one in path.rglob("*"):
                    if one.is_dir():
                        one.chmod(0o755)
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def row(self, method: str) -> list[str]:
        """Medians of a method."""

        def middle(what: str, of: Callable[[Run], float] = lambda run: run.wall) -> float:
            return median([of(run) for run in self.runs.get((method, what), [Run(float("nan"))])])

        least, kit = middle("floor+fsync"), middle("mergekit")
        cold, known = middle("cold"), middle("remembered")
        return [
            method,
            f"{middle('floor'):.2f}",
            f"{least:.2f}",
            f"{cold:.2f}",
            f"{known:.2f}",
            f"{cold / least:.2f}",
            f"{known / least:.2f}",
            f"{middle('remembered', lambda run: run.cpu):.2f}",
            f"{middle('cold', lambda run: run.resident):.0f}",
            f"{middle('cold', lambda run: run.anonymous):.0f}",
            *([f"{kit:.1f}", f"{kit / cold:.1f}"] if self.oracle else []),
            *([f"{middle('mergekit', lambda run: run.resident):.0f}"] if self.oracle else []),
        ]

    @property
    def heads(self) -> list[str]:
        own = ["floor s", "+fsync s", "cold s", "known s", "cold/floor", "known/floor"]
        own += ["known CPU s", "peak MiB", "anon MiB"]
        kit = ["mergekit s", "mergekit/cold", "mergekit MiB"] if self.oracle else []
        return ["method", *own, *kit]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", type=float, default=0.1, help="billions of parameters")
    parser.add_argument("--methods", nargs="+", default=["linear", "slerp", "ties", "dare_ties"],
                        choices=CASES)  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--models", type=Path, help="folder with base, a and b (default: made)")
    parser.add_argument("--work", type=Path, help="where to work (default: the temporary folder)")
    parser.add_argument("--no-oracle", action="store_true", help="leave mergekit out")
    parser.add_argument("--given-back", action="store_true",
                        help="wait before each run until the host took free memory")  # fmt: skip
    options = parser.parse_args(arguments)
    named = os.environ.get("MERGEBUILD_ORACLE")
    oracle = Path(named) if named and not options.no_oracle else None
    with tempfile.TemporaryDirectory(dir=options.work, prefix="mergebuild-bench-") as name:
        folder = Path(name)
        shape = of_size(options.size)
        if options.models is not None:
            models = [options.models / one for one in ("base", "a", "b")]
        else:
            models = make(folder / "models", shape)
        files = [path / "model.safetensors" for path in models]
        warm(files)
        bench = Bench(folder, models, options.threads, oracle, not options.given_back)
        for number in range(options.rounds):
            for method in options.methods:
                bench.round(method)
                print(f"round {number + 1}: {method}", file=sys.stderr, flush=True)
        size = files[0].stat().st_size / 1e9
        print(machine())
        state = "given back to the host" if options.given_back else "ready"
        print(f"\nFree memory {state}; models of {size:.2f} GB, {options.threads} threads, "
              f"medians of {options.rounds} rounds\n")  # fmt: skip
        print(table(bench.heads, [bench.row(method) for method in options.methods]))


if __name__ == "__main__":
    main()
