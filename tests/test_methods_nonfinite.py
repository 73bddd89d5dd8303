"""Values that are not finite fail the node that reads them, for every method, unless allowed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mergebuild as mb
from mergebuild.console.methods import example
from mergebuild.engine.options import Options
from mergebuild.errors import BuildError
from mergebuild.methods import registry
from tests import kit
from tests.builder import Scratch

TENSOR = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, a and b, of which a has three values in one matrix that are not finite."""
    root = tmp_path_factory.mktemp("models")
    base = kit.llama(root / "base", layers=1)
    for seed, name in enumerate("ab", start=1):
        kit.llama(root / name, layers=1, near=base, seed=seed)
    file = root / "a" / "model.safetensors"
    tensors = load_file(file)
    tensors[TENSOR].view(-1)[:3] = torch.tensor([math.nan, math.inf, -math.inf])
    save_file(tensors, file, metadata={"format": "pt"})
    return root


def scratch_of(name: str, models: Path, root: Path) -> Scratch:
    """A recipe of one node, the one that `mergebuild methods` shows, over the models."""
    scratch = Scratch(root)
    text = example(registry()[name])
    scratch.write(text + "\n")
    used = [source for source in ("base", "a", "b") if f"{source}: org/" in text]
    scratch.sources = {source: str(models / source) for source in used}
    return scratch


@pytest.mark.parametrize("name", registry().built_in)
def test_the_node_fails_and_names_model_tensor_and_count(
    name: str, models: Path, tmp_path: Path
) -> None:
    scratch = scratch_of(name, models, tmp_path)
    with pytest.raises(BuildError) as failure:
        scratch.build()
    message = failure.value.problems[0].message
    for part in ("merged", f"'{TENSOR}'", "'a'", "3 values"):
        assert part in message
    assert failure.value.problems[0].hint == "--allow-nonfinite lets them through"
    assert not scratch.output("merged").exists()


@pytest.mark.parametrize("name", ["iso_c", "linear", "slerp", "ties"])
def test_allowed_they_pass_and_the_manifest_says_so(
    name: str, models: Path, tmp_path: Path
) -> None:
    scratch = scratch_of(name, models, tmp_path)
    mb.build(scratch.plan(), options=Options(allow_nonfinite=True))
    merged = kit.read(scratch.output("merged"))
    assert merged[TENSOR].view(-1)[0].isnan()
    assert all(tensor.isfinite().all() for key, tensor in merged.items() if key != TENSOR)
    manifest = json.loads((scratch.output("merged") / "mergebuild.json").read_text())
    assert manifest["provenance"]["allow_nonfinite"] is True


def test_a_copy_is_the_same_bytes_whatever_they_are(models: Path, tmp_path: Path) -> None:
    """What passes unchanged is not looked into: it keeps the key that it had."""
    scratch = scratch_of("passthrough", models, tmp_path)
    text = (tmp_path / "recipe.yaml").read_text()
    scratch.write(text.replace("scale: 0.5", "scale: null").replace("bfloat16", "float32"))
    scratch.build()
    assert kit.read(scratch.output("merged"))[TENSOR].isnan().sum() == 1
