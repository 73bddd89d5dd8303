"""The recipes that this project started from, through the real command.

Small checkpoints with the true names and the true number of layers stand in for the sources.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests import kit

Tensors = Mapping[str, Tensor]
Expected = Callable[[str, Tensors], Tensor]  # (tensor name, that tensor of each source) -> result


@dataclass(frozen=True, slots=True)
class Row:
    """One recipe. `sources` are aliases, the first one the base the others are finetunes of.

    `expected` is the result where the recipe is deterministic. Where it is random, it is the
    result if nothing is kept, and `moved` is the share of elements that differ from it.
    """

    name: str
    sources: tuple[str, ...]
    dtype: str
    expected: Expected
    layers: int = 32
    tied: bool = False
    options: tuple[str, ...] = ()
    moved: float | None = None


def slerp(t: float, x: Tensor, y: Tensor) -> Tensor:
    x, y = x.double(), y.double()
    cosine = ((x * y).sum() / (x.norm() * y.norm())).clamp(-1, 1)
    if cosine.abs() > 0.9995:
        return (1 - t) * x + t * y
    angle = torch.acos(cosine)
    return (torch.sin((1 - t) * angle) * x + torch.sin(t * angle) * y) / torch.sin(angle)


def nuslerp_of_tasks(name: str, of: Tensors) -> Tensor:
    """Far from parallel, NuSLERP is SLERP of the task vectors."""
    base = of["base"].double()
    return base + slerp(0.7, of["sft"].double() - base, of["kd"].double() - base)


def gradient(points: tuple[float, ...], layer: int, layers: int) -> float:
    at = layer / (layers - 1) * (len(points) - 1)
    low = int(at)
    return points[low] + (at - low) * (points[min(low + 1, len(points) - 1)] - points[low])


def excalibur(name: str, of: Tensors) -> Tensor:
    f2 = slerp(0.5, of["magic-dolphin"], of["jaskier"]).half()
    linear = 0.6 * of["merlinite"].double()
    linear += 0.2 * of["neural-chat"].double() + 0.2 * of["zephyr"].double()
    b1 = linear.half()
    found = re.search(r"layers\.(\d+)\.", name)
    layer = int(found[1]) if found else 0
    t = 0.5
    if "self_attn" in name:
        t = gradient((1, 0.7, 0.3, 0.5, 0), layer, 32)
    elif "mlp" in name:
        t = gradient((0, 0.3, 0.7, 0.5, 1), layer, 32)
    return slerp(t, f2, b1)


def wizard_whole(name: str, of: Tensors) -> Tensor:
    base = of["mistral"].double()
    stage = (base + (of["wizard"].double() - base)).bfloat16()
    return base + (stage.double() - base) + (of["neural"].double() - base)


MEDSWIN = ("base", "sft", "kd")
WIZARD = ("mistral", "wizard", "neural")

ROWS = (
    Row(
        "medswin-dare-ties",
        MEDSWIN,
        "bfloat16",
        lambda name, of: of["base"],
        moved=1 - 0.4 * 0.4,
    ),
    Row("medswin-nuslerp", MEDSWIN, "bfloat16", nuslerp_of_tasks),
    Row(
        "llama-3.2-3b-dare-ties",
        ("llama", "instruct", "fine-tuned", "thinking"),
        "bfloat16",
        lambda name, of: of["llama"],
        layers=28,
        tied=True,
        moved=1 - prod((0.75, 0.75, 0.85)),
    ),
    Row(
        "excalibur-7b",
        ("magic-dolphin", "jaskier", "merlinite", "neural-chat", "zephyr"),
        "float16",
        excalibur,
    ),
    Row("wizard-on-neural", WIZARD, "bfloat16", lambda name, of: of["neural"], moved=0.3),
    Row("wizard-on-neural", WIZARD, "bfloat16", wizard_whole, options=("--set", "density=1")),
)


def test_every_recipe_is_here() -> None:
    files = {file.stem for file in (kit.ROOT / "recipes").glob("*.yaml")}
    assert files - {"demo"} == {row.name for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join((row.name, *row.options[1:])))
def test_recipe(row: Row, tmp_path: Path) -> None:
    places = sources(row, tmp_path / "sources")
    arguments: list[str | Path] = ["build", kit.ROOT / "recipes" / f"{row.name}.yaml", *row.options]
    for alias, place in places.items():
        arguments += ["--source", f"{alias}={place}"]
    result = kit.run(*arguments, cwd=tmp_path)
    assert result.code == 0, result.stderr

    out = tmp_path / "build" / row.name
    merged = kit.read(out)
    of = {alias: kit.read(place) for alias, place in places.items()}
    first = of[row.sources[0]]
    kind = getattr(torch, row.dtype)
    assert {name: tensor.shape for name, tensor in merged.items()} == {
        name: tensor.shape for name, tensor in first.items()
    }
    assert {tensor.dtype for tensor in merged.values()} == {kind}
    assert kit.config(out)["num_hidden_layers"] == row.layers

    expected = {name: row.expected(name, {k: v[name] for k, v in of.items()}) for name in merged}
    off = torch.cat(
        [(merged[name].double() - expected[name].double()).abs().flatten() for name in merged]
    )
    # What is rounded on the way is as large as the sources: a result may be less, by cancellation.
    size = torch.cat(
        [torch.stack([v[name].double().abs() for v in of.values()]).amax(0).flatten()
         for name in merged]
    )  # fmt: skip
    if row.moved is None:
        # One rounding for each stage, each at most half a step, and float32 before it.
        assert (off <= 2 * torch.finfo(kind).eps * size + 2e-4 * torch.finfo(kind).eps).all()
    else:
        assert (off > 0).double().mean().item() == pytest.approx(row.moved, abs=0.03)

    before = snapshot(tmp_path)
    again = kit.run(*arguments, cwd=tmp_path)
    assert again.code == 0, again.stderr
    assert snapshot(tmp_path) == before


def sources(row: Row, root: Path) -> dict[str, Path]:
    """A checkpoint for each alias, in the dtype of the recipe; finetunes far enough to measure."""
    places: dict[str, Path] = {}
    for seed, alias in enumerate(row.sources):
        places[alias] = kit.llama(
            root / alias,
            layers=row.layers,
            dtype=row.dtype,
            tied=row.tied,
            seed=seed,
            near=places[row.sources[0]] if seed else None,
            scale=0.1,
        )
    return places


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    """Identity and time of every file that a build writes; the log of runs may grow."""
    files = (*(root / "build").rglob("*"), *(root / "cache" / "checkpoints").rglob("*"))
    return {str(f): (f.stat().st_ino, f.stat().st_mtime_ns) for f in files if f.is_file()}
