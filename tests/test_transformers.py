"""What comes out loads in transformers, nothing missing and nothing unexpected, and generates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from tests import kit
from tests.builder import Scratch

WHOLE = """\
mergebuild: 1
sources: {a: ./a, b: ./b}
nodes:
  out:
    merge_method: slerp
    base_model: a
    models: [{model: a}, {model: b}]
    parameters: {t: 0.4}
    dtype: bfloat16
"""

SLICES = """\
mergebuild: 1
sources: {a: ./a, b: ./b}
nodes:
  out:
    merge_method: passthrough
    slices:
      - sources: [{model: a, layer_range: [0, 3]}]
      - sources: [{model: b, layer_range: [1, 4]}]
    dtype: float16
"""

MODELS = {
    "llama": lambda path, **more: kit.llama(path, **more),
    "llama, tied": lambda path, **more: kit.llama(path, tied=True, **more),
    "qwen": lambda path, **more: kit.qwen2(path, **more),
    "gpt2": lambda path, **more: kit.gpt2(path, **more),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("recipe", "layers", "dtype"), [(WHOLE, 4, torch.bfloat16), (SLICES, 6, torch.float16)]
)
def test_loads_and_generates(
    tmp_path: Path, model: str, recipe: str, layers: int, dtype: torch.dtype
) -> None:
    MODELS[model](tmp_path / "a")
    MODELS[model](tmp_path / "b", near=tmp_path / "a", seed=1)
    scratch = Scratch(tmp_path)
    scratch.write(recipe)
    scratch.build()
    out = scratch.output("out")

    loaded = kit.loaded(out, dtype="auto")
    assert loaded.dtype is dtype
    assert loaded.config.num_hidden_layers == layers
    for name, tensor in kit.read(out).items():
        assert loaded.state_dict()[name].equal(tensor)

    tokenizer = AutoTokenizer.from_pretrained(out)
    prompt = tokenizer("hello", return_tensors="pt")
    ids = loaded.float().generate(**prompt, max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert ids.shape[1] > prompt["input_ids"].shape[1]
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_a_cached_checkpoint_loads_as_it_is(tmp_path: Path) -> None:
    kit.llama(tmp_path / "a")
    kit.llama(tmp_path / "b", near=tmp_path / "a", seed=1)
    scratch = Scratch(tmp_path)
    scratch.write(WHOLE)
    scratch.build()
    (folder,) = (tmp_path / "cache/checkpoints").iterdir()
    kit.loaded(folder)
    assert all(path.stat().st_mode & 0o222 == 0 for path in folder.iterdir())
