"""What methods and the rounding have to say of a tensor while it is merged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import mergebuild as mb
from mergebuild.events import Event, Warned
from tests.builder import Scratch

ZERO = torch.zeros(4, 4)
X = torch.eye(4)

CASES = {
    "model_stock beyond 1": (
        "merge_method: model_stock, base_model: a, models: [{model: b}, {model: c}, {model: d}]",
        {"a": ZERO, "b": X, "c": -0.45 * X + 0.1, "d": -0.45 * X - 0.1},
        "t is beyond 1",
    ),
    "multislerp without a direction": (
        "merge_method: multislerp, models: [{model: b, parameters: {weight: 1}}, "
        "{model: c, parameters: {weight: 1}}]",
        {"b": X, "c": -X},
        "the directions cancel out: inputs are averaged instead",
    ),
    "sce below its floor": (
        "merge_method: sce, base_model: a, models: [{model: b}, {model: c}]",
        {"a": ZERO, "b": 1e-5 * X, "c": 2e-5 * X},
        "the task vectors are below `floor`: all inputs count alike",
    ),
    "overflow": (
        "merge_method: passthrough, models: [{model: b}], dtype: float16",
        {"b": 1e6 * X},
        "values became infinite in float16",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_reports(tmp_path: Path, case: str) -> None:
    body, tensors, text = CASES[case]
    for name, tensor in tensors.items():
        (tmp_path / name).mkdir()
        save_file({"w": tensor, "v": tensor.clone()}, tmp_path / name / "model.safetensors")
    scratch = Scratch(tmp_path)
    sources = ", ".join(f"{name}: ./{name}" for name in tensors)
    scratch.write(f"mergebuild: 1\nsources: {{{sources}}}\nnodes:\n  out: {{{body}}}\n")
    said: list[str] = []

    def sink(event: Event) -> None:
        if isinstance(event, Warned):
            said.append(event.text)

    mb.build(scratch.plan(), sink=sink)
    assert [line for line in said if text in line and line.endswith("(2 tensors)")], said
