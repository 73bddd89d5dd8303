"""`inspect`: what it says of every kind of reference, how two models differ, and distances."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import mergebuild as mb
from mergebuild import api
from mergebuild.checkpoint.comparison import compare
from mergebuild.console.checkpoints import inspect_json
from mergebuild.console.comparisons import comparison_json, comparison_text
from mergebuild.engine import deltas
from mergebuild.engine.deltas import distances
from mergebuild.plan.looking import Looked
from tests import kit
from tests.test_lora import adapter, pair

Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and adapters that are only looked at."""
    root = tmp_path_factory.mktemp("inspect")
    kit.llama(root / "base", shards=2)
    kit.llama(root / "fine", near=root / "base", seed=1)
    kit.llama(root / "half", near=root / "base", scale=0, dtype="bfloat16")
    kit.qwen2(root / "qwen", vocab=40, layers=3)
    patterns = {"rank_pattern": {"lm_head": 4}, "alpha_pattern": {"lm_head": 2}}
    tensors = {**pair(Q), **pair("lm_head", 32, rank=4)}
    tensors["base_model.model.model.norm.weight"] = torch.ones(16)
    adapter(root / "lora", tensors, base_model_name_or_path="org/base", **patterns)
    stored = kit.read(root / "base")
    (root / "wrapped").mkdir()
    wrapped = {
        "language_model." + name: tensor for name, tensor in stored.items() if name[:5] == "model"
    }
    save_file(wrapped, root / "wrapped" / "model.safetensors")
    return root


def look(root: Path, reference: str) -> Looked:
    return api.look("+".join(str(root / part) for part in reference.split("+")))


def inspect(root: Path, *args: str) -> kit.Result:
    return kit.run("inspect", *args, cwd=root)


SAYS: dict[str, tuple[str, ...]] = {
    "base": (
        "architecture: LlamaForCausalLM (llama)",
        "39 tensors, 8,848 parameters, 35.4 kB in 2 files",
        "layers: 4, model.layers.0 to model.layers.3 (text_decoder)", "dtypes: float32 (39)",
        "vocabulary: 32 rows in model.embed_tokens.weight",
        "not tied: the output head is lm_head.weight", "other files: generation_config.json, ",
        "weights: model-00001-of-00002.safetensors, model-00002-of-00002.safetensors",
    ),
    "qwen": ("Qwen2ForCausalLM", "tied: the output head is the embedding", "40 rows"),
    "half": ("bfloat16 (39)", "17.7 kB"),
    "base+./lora": (
        "39 tensors", "LoRA: rank 2 (1), 4 (1), scale 0.5 (1), 3 (1)",
        "LoRA targets: lm_head (1), q_proj (1)", "LoRA keeps whole: model.norm.weight",
        "LoRA for: org/base", "in 3 files",
    ),
    "lora": ("5 tensors", "LoRA targets: lm_head (1), q_proj (1)", "adapter_config.json"),
    "half/model.safetensors": ("39 tensors", "other files: none"),
}  # fmt: skip


@pytest.mark.parametrize("reference", SAYS)
def test_what_it_says(reference: str, root: Path) -> None:
    result = inspect(root, reference)
    assert result.code == 0, result.stderr
    for text in SAYS[reference]:
        assert text in result.stdout
    said = inspect_json(look(root, reference))
    assert said["parameters"] == sum(
        torch.Size(tensor["shape"]).numel() for tensor in said["tensors"].values()
    )


def test_derived_tensors_are_marked(root: Path) -> None:
    said = json.loads(inspect(root, "base+./lora", "--json").stdout)
    assert said["reference"] == "base+./lora"
    derived = [name for name, tensor in said["tensors"].items() if tensor.get("derived")]
    assert derived == ["lm_head.weight", f"{Q}.weight"]
    assert said["adapter"] == {
        "ranks": {"2": 1, "4": 1}, "scales": {"0.5": 1, "3.0": 1},
        "targets": {"lm_head": 1, "q_proj": 1}, "saved": ["model.norm.weight"], "base": "org/base",
    }  # fmt: skip
    assert (
        f"{Q}.weight  float32  [16, 16]  (derived)"
        in inspect(root, "base+./lora", "--tensors").stdout
    )


WRONG: dict[str, tuple[tuple[str, ...], int, str]] = {
    "nowhere": (("nowhere",), 1, "error: there is no 'nowhere'"),
    "no adapter": (("base+./nowhere",), 1, "error: there is no './nowhere'"),
    "no reference": (("a@b@c",), 2, "has more than one '@'"),
    "one model": (("base", "--deltas"), 2, "--deltas needs two models"),
    "two models": (("base", "fine", "--tensors"), 2, "--tensors is of one model"),
    "a model as adapter": (("base+./fine",), 1, "not a LoRA adapter"),
    "offline": (("org/name",), 1, "HF_HUB_OFFLINE is set"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong(case: str, root: Path) -> None:
    args, code, message = WRONG[case]
    result = inspect(root, *args)
    assert (result.code, result.stdout) == (code, "")
    assert message in result.stderr


DIFFERS: dict[tuple[str, str], tuple[str, ...]] = {
    ("base", "base"): ("names, shapes, dtypes, config and other files are the same",),
    ("base", "fine"): ("names, shapes, dtypes, config and other files are the same",),
    ("base", "half"): (
        "dtype differs: all 39 tensors: float32 → bfloat16",
        'config differs: torch_dtype: "float32" → "bfloat16"',
    ),
    ("base", "qwen"): (
        "only in A: lm_head.weight", "only in A: model.layers.3.mlp.up_proj.weight",
        "only in B: model.layers.*.self_attn.q_proj.bias (3 tensors)",
        "shape differs: model.embed_tokens.weight: [32, 16] → [40, 16]",
        "vocabulary differs: 32 → 40 rows", "output head differs: not tied → tied",
        "config differs: num_hidden_layers: 4 → 3", "file tokenizer.json differs",
        "tokens only in B: 8: '<32>', '<33>', '<34>', '<35>', '<36>', '<37>', '<38>', '<39>'",
    ),
    ("base", "wrapped"): (
        "names: 'language_model.' of B is '' of A (38 tensors)", "config.json is only in A",
        "only in A: lm_head.weight", "file tokenizer.json is only in A",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DIFFERS)
def test_how_two_differ(case: tuple[str, str], root: Path) -> None:
    result = inspect(root, *case)
    assert result.code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:3] == [f"A  {case[0]}", f"B  {case[1]}", ""]
    for text in DIFFERS[case]:
        assert text in lines
    assert ("the same" in result.stdout) == ("the same" in DIFFERS[case][0])


def test_tokens_that_have_another_id(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "base", tmp_path / "moved")
    file = tmp_path / "moved/tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    vocab["new"] = vocab.pop("z")
    file.write_text(json.dumps(tokenizer))
    result = inspect(root, "base", str(tmp_path / "moved"))
    lines = result.stdout.splitlines()
    for text in ("tokens only in A: 1: 'z'", "tokens only in B: 1: 'new'",
                 "tokens of another id: 2: 'a' 3 → 4, 'b' 4 → 3"):  # fmt: skip
        assert text in lines, result.stdout
    said = json.loads(inspect(root, "base", str(tmp_path / "moved"), "--json").stdout)["tokens"]
    assert said == {"only_a": ["z"], "only_b": ["new"],
                    "moved": {"a": {"a": 3, "b": 4}, "b": {"a": 4, "b": 3}}}  # fmt: skip
    file.write_text("{")
    result = inspect(root, "base", str(tmp_path / "moved"))
    assert result.code == 0
    assert "note: vocabularies are not compared: " in result.stderr


def table(root: Path, one: str, other: str) -> dict[str, Any]:
    a, b = look(root, one), look(root, other)
    found = compare(a.tensors, b.tensors, a.config, b.config)
    return comparison_json(a, b, found, [], None, distances(a, b, found.pairs, 2))


@pytest.mark.parametrize("other", ["fine", "half", "wrapped"])
def test_distances_are_those_of_the_tensors(other: str, root: Path) -> None:
    found = table(root, "base", other)["deltas"]
    a, b = kit.read(root / "base"), kit.read(root / other)
    b = {name.removeprefix("language_model."): tensor for name, tensor in b.items()}
    assert found.keys() == b.keys()
    for name, said in found.items():
        delta = b[name].double() - a[name].double()
        assert said["norm"] == pytest.approx(float(delta.norm()), rel=1e-12, abs=1e-15)
        assert said["norm_a"] == pytest.approx(float(a[name].double().norm()), rel=1e-12)


def test_distances_of_a_lora(root: Path) -> None:
    found = table(root, "base", "base+./lora")["deltas"]
    a, b = pair(Q).values()
    assert found[f"{Q}.weight"]["norm"] == pytest.approx(float((3 * b @ a).norm()), rel=1e-5)
    changed = {name for name, said in found.items() if said["norm"]}
    assert changed == {f"{Q}.weight", "lm_head.weight", "model.norm.weight"}


def test_the_table(root: Path) -> None:
    machine = json.loads(inspect(root, "base", "fine", "--deltas", "--json").stdout)
    assert machine["deltas"] == table(root, "base", "fine")["deltas"]
    lines = inspect(root, "base", "fine", "--deltas").stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("model.layers.*"))
    words = [w for line in lines[start:] if "*" in line for w in line.split()[1:]]
    assert words == [
        "input_layernorm", "down_proj", "gate_proj", "up_proj", "post_attention_layernorm",
        "k_proj", "o_proj", "q_proj", "v_proj", "all",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[start + 1 : start + 6]] == ["0", "1", "2", "3", "all"]
    assert all(len(line) <= 100 for line in lines)
    a, b = kit.read(root / "base"), kit.read(root / "fine")
    name = "model.layers.1.mlp.down_proj.weight"
    assert lines[start + 2].split()[2] == f"{float((b[name] - a[name]).norm()):.3g}"


@pytest.mark.parametrize("block", [7, 1 << 18])
def test_blocks_and_threads_do_not_matter(
    block: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deltas, "_BLOCK", block)
    one, two = (look(root, name) for name in ("base", "fine"))
    found = compare(one.tensors, two.tensors, one.config, two.config)
    apart = [distances(one, two, found.pairs, jobs) for jobs in (1, 3)]
    assert apart[0] == apart[1]
    text = comparison_text(one, two, found, [], None, apart[0])
    assert "norm of B - A" in text


def test_experts_fall_together_and_odd_values_are_told(tmp_path: Path) -> None:
    names = [
        f"layers.{i}.mlp.experts.{e}.w{k}.weight" for i in (0, 1) for e in (0, 1) for k in (1, 2)
    ]
    for name, value in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        tensors = {n: torch.full((2, 2), value) for n in names}
        tensors["nan"] = torch.full((2,), torch.nan)
        tensors["empty"], tensors["ids"] = torch.zeros(0, 3), torch.arange(3) * int(value)
        save_file(tensors, tmp_path / name / "model.safetensors")
    result = inspect(tmp_path, "a", "b", "--deltas")
    assert result.code == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["layers.*", "w1", "w2", "all"] in rows
    assert ["0", "2.83", "2.83", "4", "(100%)"] in rows
    assert ["ids:", "2.24", "(100%)"] in rows
    made = table(tmp_path, "a", "b")["deltas"]
    assert made["nan"] == {"norm": None, "norm_a": None}
    assert made["empty"] == {"norm": 0.0, "norm_a": 0.0}


def test_a_file_that_changes_meanwhile(tmp_path: Path) -> None:
    kit.llama(tmp_path / "a", layers=1)
    kit.llama(tmp_path / "b", layers=1)
    one, two = (look(tmp_path, name) for name in ("a", "b"))
    kit.llama(tmp_path / "b", layers=1, seed=3)
    found = compare(one.tensors, two.tensors, one.config, two.config)
    with pytest.raises(mb.CheckpointError, match="changed while"):
        distances(one, two, found.pairs, 1)
