"""Error against a float64 evaluation, with bfloat16 inputs: ours and mergekit's, on the same files.

    MERGEBUILD_ORACLE=/path/to/mergekit/bin python -m benchmarks.precision > benchmarks/precision.md

Makes four small seeded checkpoints, merges them with every method that both have, to bfloat16 and
to float32, and prints a table. mergekit runs as a black box. The float64 evaluation is that of the
formulas in tests/. Thresholds and random masks are not part of it (density 1): which elements are
kept among equals is a matter of rules.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

import mergebuild as mb
from mergebuild.methods import registry
from mergebuild.methods.declaration import Operands
from tests import kit
from tests.methods_reference import REFERENCES, example_arguments

DRIVER: Final = kit.ROOT / "tests" / "parity" / "driver.py"
QUIET: Final = ("--quiet", "--no-copy-tokenizer", "--no-write-model-card", "--clone-tensors")
DTYPES: Final = ("bfloat16", "float32")


@dataclass(frozen=True, slots=True)
class Row:
    """A method with so many models besides the base; `given` are its parameters."""

    method: str
    models: int
    given: Mapping[str, Any] = field(default_factory=dict)
    base: bool = False
    label: str = ""


# Sums of three such weights are exact, so that no sign that is voted on hangs on a rounding.
W2, W3 = (0.625, 0.25), (0.5, 0.25, 0.375)
ROWS: Final = (
    Row("linear", 3, {"weight": W3}),
    Row("slerp", 1, {"t": 0.4}, base=True),
    Row("nuslerp", 2, {"weight": W2}),
    Row("nuslerp", 2, {"weight": W2}, base=True, label="nuslerp, base"),
    Row("nuslerp", 2, {"weight": W2, "nuslerp_flatten": False}, base=True, label="nuslerp, rows"),
    Row("multislerp", 3, {"weight": W3}),
    Row("multislerp", 3, {"weight": W3}, base=True, label="multislerp, base"),
    Row("karcher", 3),
    Row("model_stock", 3, base=True),
    Row("model_stock", 3, {"filter_wise": True}, base=True, label="model_stock, filter_wise"),
    Row("task_arithmetic", 3, {"weight": W3}, base=True),
    Row("ties", 3, {"weight": W3}, base=True),
    Row("dare_linear", 3, {"weight": W3}, base=True),
    Row("dare_ties", 3, {"weight": W3}, base=True),
    Row("della", 3, {"weight": W3}, base=True),
    Row("della_linear", 3, {"weight": W3}, base=True),
    Row("breadcrumbs", 3, {"weight": W3}, base=True),
    Row("breadcrumbs_ties", 3, {"weight": W3}, base=True),
    Row("sce", 3, base=True),
    Row("arcee_fusion", 1, base=True),
    Row("nearswap", 1, {"t": 0.0005}, base=True),
    Row("ram", 3, {"epsilon": 0.0005}, base=True),
    Row("ramplus_tl", 3, {"epsilon": 0.0005}, base=True),
    Row("passthrough", 1, {"scale": (0.7,)}),
)


def main() -> None:
    print("| method | bfloat16: ours | mergekit | float32: ours | mergekit |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for label, errors in measured(Path(folder), oracle()):
            cells = " | ".join(f"{one:.2e}" for one in errors)
            print(f"| {label} | {cells} |", flush=True)


def measured(root: Path, python: Path) -> Iterator[tuple[str, list[float]]]:
    """Of each row the errors in `DTYPES`, ours before mergekit's; NaN where mergekit fails.

    `root` is an empty folder, `python` mergekit's.
    """
    models = checkpoints(root)
    theirs = mergekit(root, python)
    for index, row in enumerate(ROWS):
        truth = evaluated(row, models)
        errors = []
        for dtype in DTYPES:
            for path in (ours(row, dtype, root / f"{index}-{dtype}"), theirs[index, dtype]):
                made = kit.read(path) if path is not None else None
                off = error(made, truth, getattr(torch, dtype)) if made else math.nan
                errors.append(off)
        yield row.label or row.method, errors


def checkpoints(root: Path) -> dict[str, dict[str, Tensor]]:
    """base, a, b and c in bfloat16: weights of deviation 0.02, deltas of 0.001."""
    random = torch.Generator().manual_seed(0)
    found: dict[str, dict[str, Tensor]] = {}
    for name in ("base", "a", "b", "c"):
        folder = kit.llama(root / name, layers=2, hidden=192, intermediate=512, vocab=700)
        tensors = {}
        for key, tensor in sorted(kit.read(folder).items()):
            noise = torch.randn(tensor.shape, generator=random)
            near = found["base"][key].float() + 0.001 * noise if found else 0.02 * noise
            if not found and tensor.dim() == 1:
                near = 1 + near
            tensors[key] = near.bfloat16()
        for file in folder.glob("*.safetensors*"):
            file.unlink()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        found[name] = tensors
    return found


def config(row: Row, dtype: str, root: Path) -> str:
    """A mergekit file."""
    names = [*(["base"] if row.base and row.method != "nuslerp" else []), *"abc"[: row.models]]
    lines = [f"merge_method: {row.method}", f"dtype: {dtype}"]
    if row.base:
        lines.append(f"base_model: {root / 'base'}")
    lines.append("models:")
    own = {k: v for k, v in row.given.items() if isinstance(v, tuple)}
    for name in names:
        index = "abc".find(name)
        values = {k: v[index] for k, v in own.items()} if name != "base" else {}
        lines.append(f"  - {{model: {root / name}, parameters: {json.dumps(values)}}}")
    shared = {k: v for k, v in row.given.items() if not isinstance(v, tuple)}
    lines.append(f"parameters: {json.dumps(shared)}")
    return "\n".join(lines) + "\n"


def ours(row: Row, dtype: str, folder: Path) -> Path:
    folder.mkdir()
    recipe = folder / "config.yml"
    recipe.write_text(config(row, dtype, folder.parent))
    loaded = mb.load(recipe)
    outputs = dict.fromkeys(loaded.outputs, folder / "out")
    mb.build(mb.plan(loaded, cache=folder / "cache", outputs=outputs))
    return folder / "out"


def mergekit(root: Path, python: Path) -> dict[tuple[int, str], Path | None]:
    """What it makes of every row; None where it fails."""
    jobs, places = {}, {}
    for index, row in enumerate(ROWS):
        for dtype in DTYPES:
            job = f"{index}.{dtype}"
            file = root / f"{job}.yml"
            file.write_text(config(row, dtype, root))
            places[job] = (index, dtype)
            arguments = [str(file), str(root / "theirs" / job), *QUIET]
            jobs[job] = {"command": "mergekit-yaml", "arguments": arguments}
    (root / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [python, DRIVER, root / "jobs.json"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[tuple[int, str], Path | None] = {}
    for line in map(json.loads, done.stdout.splitlines()):
        failed = line["error"] is not None
        found[places[line["job"]]] = None if failed else root / "theirs" / line["job"]
        if failed:
            print(f"{line['job']}: {line['error']}", file=sys.stderr)
    return found


def evaluated(row: Row, models: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The formula in float64."""
    names = [*(["base"] if row.base else []), *"abc"[: row.models]]
    result = {}
    for key in models["base"]:
        xs = [models[name][key].double() for name in names]
        operands = Operands(len(xs), row.base, tuple(xs[0].shape))
        arguments = example_arguments(registry()[row.method], operands) | dict(row.given)
        result[key] = REFERENCES[row.method](xs, row.base, arguments)[0].double()
    return result


def error(made: Mapping[str, Tensor], truth: Mapping[str, Tensor], dtype: torch.dtype) -> float:
    """Root mean square of the error over all elements, relative to that of the values.

    What mergekit leaves in float32 where bfloat16 was asked for is rounded first.
    """
    off = sum(float((made[k].to(dtype).double() - y).square().sum()) for k, y in truth.items())
    return math.sqrt(off / sum(float(y.square().sum()) for y in truth.values()))


def oracle() -> Path:
    folder = os.environ.get("MERGEBUILD_ORACLE")
    python = Path(folder) / "python" if folder else kit.ROOT / ".oracle" / "bin" / "python"
    if not python.exists():
        sys.exit(f"no mergekit at {python}: python3 dev.py oracle installs it")
    return python


if __name__ == "__main__":
    main()
