"""Nodes of kind `moe`: transformers loads them, identical experts compute what the dense model
does, routers are given or drawn, mergekit-moe's files, and every mistake with its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import mergebuild as mb
from mergebuild.kernels.random import gates, stream
from tests import kit
from tests.builder import Scratch, computed, edited

HEAD = "mergebuild: 1\nsources: {base: ./base, one: ./one, two: ./two}\nnodes:\n"
MOE = "  moe:\n    kind: moe\n    base_model: base\n"
TWO = "    experts: [{source_model: one}, {source_model: two}]\n"
IDS = torch.tensor([[3, 4, 5, 6, 7]])


def qwen3(path: Path, seed: int = 0, near: Path | None = None, **more: Any) -> Path:
    return dense("Qwen3", path, seed, near, head_dim=6, **more)


def mistral(path: Path, seed: int = 0, near: Path | None = None, **more: Any) -> Path:
    return dense("Mistral", path, seed, near, sliding_window=3, **more)


def dense(family: str, path: Path, seed: int, near: Path | None, **more: Any) -> Path:
    """A tiny model as transformers writes it; with `near` a finetune of that."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 32,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = getattr(transformers, f"{family}ForCausalLM")(
        getattr(transformers, f"{family}Config")(**sizes | more)
    )
    if near is not None:
        state = kit.read(near)
        model.load_state_dict({n: t + 0.01 * torch.randn_like(t) for n, t in state.items()},
                              strict=False)  # fmt: skip
    model.save_pretrained(path)
    return path


def llama(path: Path, **more: Any) -> Path:
    return kit.llama(path, layers=2, **more)


def qwen2(path: Path, **more: Any) -> Path:
    return kit.qwen2(path, layers=2, **more)


FAMILIES: dict[str, tuple[Callable[..., Path], str, str]] = {
    "mixtral of llama": (llama, "", "MixtralForCausalLM"),
    "mixtral of a tied llama": (
        lambda p, **more: llama(p, tied=True, **more), "", "MixtralForCausalLM",
    ),
    "mixtral of mistral": (mistral, "", "MixtralForCausalLM"),
    "qwen2 of qwen2": (
        qwen2, "    shared_experts: [{source_model: two, residual_scale: 0}]\n",
        "Qwen2MoeForCausalLM",
    ),
    "qwen2 of llama": (
        llama, "    shared_experts: [{source_model: two, residual_scale: 0}]\n",
        "Qwen2MoeForCausalLM",
    ),
    "qwen3 of qwen3": (qwen3, "", "Qwen3MoeForCausalLM"),
}  # fmt: skip


def logits(path: Path) -> Tensor:
    with torch.no_grad():
        result: Tensor = kit.loaded(path, dtype=torch.float32)(IDS).logits
    return result


@pytest.mark.parametrize("case", FAMILIES)
def test_identical_experts_are_the_dense_model(case: str, tmp_path: Path) -> None:
    """All parts named by four equal experts: any routing gives what the dense model gives."""
    make, more, architecture = FAMILIES[case]
    make(tmp_path / "base")
    made = Scratch(tmp_path)
    experts = "    experts: [" + ", ".join(["{source_model: base}"] * 4) + "]\n"
    alone = HEAD.replace(", one: ./one, two: ./two", "")
    made.write(alone + MOE + experts + more.replace("two", "base"))
    made.build()
    assert kit.config(made.output("moe"))["architectures"] == [architecture]
    torch.testing.assert_close(
        logits(made.output("moe")), logits(tmp_path / "base"), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("case", FAMILIES)
def test_experts_are_the_models_and_a_merge_goes_on(case: str, tmp_path: Path) -> None:
    make, more, _ = FAMILIES[case]
    make(tmp_path / "base")
    for seed, name in ((1, "one"), (2, "two")):
        make(tmp_path / name, near=tmp_path / "base", seed=seed)
    again = MOE.replace("moe:\n", "other:\n", 1) + "    seed: 7\n"
    on = (
        "  out:\n    merge_method: linear\n    models:\n"
        "      - {model: moe, parameters: {weight: 1}}\n"
        "      - {model: other, parameters: {weight: 1}}\n"
    )
    made = Scratch(tmp_path)
    made.write(HEAD + MOE + TWO + more + again + TWO + more + on + "outputs: [moe, out]\n")
    made.build()
    moe, base = kit.read(made.output("moe")), kit.read(tmp_path / "base")
    one, two = kit.read(tmp_path / "one"), kit.read(tmp_path / "two")
    names = [n for n in moe if "experts" in n]
    assert len(names) == 2 * 2 * 3
    called = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
    for name in names:
        layer, expert, projection = (name.split(".")[i] for i in (2, 5, 6))
        dense_name = f"model.layers.{layer}.mlp.{called.get(projection, projection)}.weight"
        assert moe[name].equal((one, two)[int(expert)][dense_name])
    for name in base.keys() & moe.keys():
        assert moe[name].equal(base[name])
    assert not logits(made.output("moe")).isnan().any()
    kit.loaded(made.output("out"))
    out = kit.read(made.output("out"))
    assert out.keys() == moe.keys()
    assert out[names[0]].equal(moe[names[0]])


# Routers.


def models(root: Path) -> None:
    llama(root / "base")
    for seed, name in ((1, "one"), (2, "two")):
        llama(root / name, near=root / "base", seed=seed)


def router(path: Path, layer: int) -> Tensor:
    return kit.read(path)[f"model.layers.{layer}.block_sparse_moe.gate.weight"]


def test_rows_are_given_or_drawn(tmp_path: Path) -> None:
    """One vector for all layers, a row of a matrix, a tensor a layer; the rest by the hash."""
    models(tmp_path)
    every, rows = torch.randn(16), torch.randn(2, 16, dtype=torch.float64)
    one, two = torch.randn(16).half(), torch.randn(16).half()
    save_file({"0": every, "math": rows, "2.0": one, "2.1": two}, tmp_path / "g.safetensors")
    experts = (
        "    experts: [{source_model: one}, {source_model: two, gate: {vectors: math}},\n"
        "              {source_model: one, gate: vectors}, {source_model: two, gate: random}]\n"
    )
    made = Scratch(tmp_path)
    made.write(HEAD + MOE + experts + "    gates: ./g.safetensors\n    seed: 5\n")
    made.build()
    for layer, own in enumerate((one, two)):
        found = router(made.output("moe"), layer)
        assert found[0].equal(every)
        assert found[1].equal(rows[layer].float())
        assert found[2].equal(own.float())
        name = f"model.layers.{layer}.block_sparse_moe.gate.weight"
        draw = gates(stream(5, "", name), 0.02)
        assert found[3].equal(torch.tensor([draw(48 + i) for i in range(16)]).float())


def test_draws_are_even_and_of_the_deviation() -> None:
    draw = gates(stream(1, "", "x"), 0.5)
    values = torch.tensor([draw(index) for index in range(20000)])
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 0.5) < 0.01
    assert values.abs().max() < 0.5 * 3**0.5


def test_only_what_changed_is_computed(tmp_path: Path) -> None:
    models(tmp_path)
    made = Scratch(tmp_path)
    made.write(HEAD + MOE + TWO + "    seed: 1\n")
    names = [f"model.layers.{layer}.block_sparse_moe.gate.weight" for layer in range(2)]
    assert computed(made.build()) == [("moe", name) for name in names]
    assert made.build() == []
    with edited(made, "seed: 1", "seed: 2"):
        assert computed(made.build()) == [("moe", name) for name in names]
    with edited(made, "{source_model: two}", "{source_model: base}"):
        assert computed(made.build()) == []  # all that is new lies in a source
    with edited(made, "seed: 1", "seed: 1\n    dtype: bfloat16"):
        assert len(computed(made.build())) == len(kit.read(made.output("moe")))
        assert kit.config(made.output("moe"))["torch_dtype"] == "bfloat16"
    with edited(made, "seed: 1", "seed: 1\n    experts_per_token: 1"):
        assert computed(made.build()) == []
        assert kit.config(made.output("moe"))["num_experts_per_tok"] == 1


def test_a_shared_expert_is_scaled(tmp_path: Path) -> None:
    qwen2(tmp_path / "base")
    qwen2(tmp_path / "one", near=tmp_path / "base", seed=1)
    qwen2(tmp_path / "two", seed=2, intermediate=40)
    made = Scratch(tmp_path)
    alone = "    experts: [{source_model: one}]\n"
    made.write(
        HEAD + MOE + alone + "    shared_experts: [{source_model: two, residual_scale: 0.5}]\n"
    )
    made.build()
    moe, two = kit.read(made.output("moe")), kit.read(tmp_path / "two")
    for projection, scale in (("gate", 1.0), ("up", 1.0), ("down", 0.5)):
        stored = two[f"model.layers.1.mlp.{projection}_proj.weight"]
        found = moe[f"model.layers.1.mlp.shared_expert.{projection}_proj.weight"]
        assert found.equal(stored * scale)
    assert kit.config(made.output("moe"))["shared_expert_intermediate_size"] == 40
    kit.loaded(made.output("moe"))


# mergekit-moe's files.

PLAIN = """\
base_model: ./base
gate_mode: random
dtype: bfloat16
experts_per_token: 1
experts:
  - {source_model: ./one, positive_prompts: [x]}
  - {source_model: ./two, positive_prompts: [y], negative_prompts: [z]}
"""


def test_a_plain_file_is_a_recipe(tmp_path: Path) -> None:
    models(tmp_path)
    (tmp_path / "moe.yml").write_text(PLAIN)
    built = kit.run("build", "moe.yml", "--out", "out", cwd=tmp_path)
    assert built.code == 0, built.stderr
    assert "moe.yml:6:27: node 'moe': 'positive_prompts' have no effect" in built.stderr
    assert kit.config(tmp_path / "out")["num_experts_per_tok"] == 1
    assert router(tmp_path / "out", 0).dtype is torch.bfloat16
    card = (tmp_path / "out/README.md").read_text()
    for text in ("a mixture of experts of", "kind: moe", "2401.04088", "- moe"):
        assert text in card
    shown = kit.run("graph", "moe.yml", cwd=tmp_path)
    assert shown.stdout.splitlines()[:2] == ["moe  (moe)", "  <- ./base  (source)"]
    explained = kit.run(
        "explain", "moe.yml", "moe", "model.layers.0.block_sparse_moe.gate.weight", cwd=tmp_path
    )
    for text in ("moe_gates", "deviation", "seed", "stream"):
        assert text in explained.stdout


@pytest.mark.parametrize("mode", ["gate_mode: hidden", "gate_mode: cheap_embed", ""])
def test_prompts_are_not_run(mode: str, tmp_path: Path) -> None:
    (tmp_path / "moe.yml").write_text(PLAIN.replace("gate_mode: random", mode))
    refused = kit.run("build", "moe.yml", "--out", "out", cwd=tmp_path)
    assert refused.code == 2
    assert "runs prompts through the models, which is not done here" in refused.stderr
    assert "hint: 'gate_mode: random' is possible" in refused.stderr
    assert "moe.yml:" in refused.stderr


MISTAKES: dict[str, tuple[str, str, str]] = {
    "no experts": ("", "'experts' is missing", "list the models"),
    "no model": ("    experts: [{gate: random}]\n",
                 "an entry of 'experts' has no 'source_model'", ""),
    "a slip": ("    experts: [{source_mode: one}]\n",
               "unknown key 'source_mode'", "'source_model'"),
    "too many": (TWO + "    experts_per_token: 3\n", "is 3, but there are 2 experts", "use 2"),
    "architecture": (TWO + "    architecture: mixtrl\n",
                     "'architecture' must be one of", "'mixtral'"),
    "another": (TWO + "    architecture: qwen3_moe\n",
                "is not made from 'llama', but from qwen3", ""),
    "shared": (TWO + "    architecture: mixtral\n    shared_experts: [{source_model: one}]\n",
               "'mixtral' has no shared experts", "qwen2_moe"),
    "not shared": (TWO + "    architecture: qwen2_moe\n",
                   "has one shared expert, not 0", "name one"),
    "noise": ("    experts: [{source_model: one, noise_scale: 0.1}]\n", "not supported", "leave"),
    "no gates": ("    experts: [{source_model: one, gate: vectors}]\n",
                 "does not say where", "gates:"),
    "gates of a node": (TWO + "    gates: moe\n", "'gates' must be a safetensors file", "path"),
    "another gate": (TWO + "    gate_mode: hiden\n", "'gate_mode' must be one of 'random'", ""),
    "no such vectors": ("    experts: [{source_model: one, gate: {vectors: maths}}]\n"
                        "    gates: ./g.safetensors\n", "neither a tensor 'maths' nor 'maths.0'",
                        "did you mean 'math'"),
    "odd vectors": ("    experts: [{source_model: one, gate: {vectors: odd}}]\n"
                    "    gates: ./g.safetensors\n", "vectors of './g.safetensors' are float32 [3]",
                    "[16] or [2, 16]"),
    "another size": ("    experts: [{source_model: wide}]\n    shared_experts: []\n",
                     "'shared_experts' must not be empty", ""),
    "sizes": ("    experts: [{source_model: one}, {source_model: wide}]\n",
              "an expert of 'wide' is [30, 16], not [24, 16]", "of one size"),
    "layers": ("    experts: [{source_model: deep}]\n", "'deep' has 3 layers, not 2", ""),
    "no dense model": ("    experts: [{source_model: gpt}]\n", "'gpt' has no such tensor", ""),
    "a base of another kind": (TWO + "  x: {kind: moe, base_model: gpt, "
                               "experts: [{source_model: gpt}]}\n", "is of type 'gpt2'", "llama"),
    "no place": (TWO + "  x: {kind: moe, architecture: mixtral, base_model: biased, "
                 "experts: [{source_model: one}]}\n", "'mixtral' has no place for a tensor", ""),
    "a merge's key": (TWO + "    parameters: {}\n", "unknown key 'parameters'", "kind 'merge'"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_located(case: str, tmp_path: Path) -> None:
    body, message, hint = MISTAKES[case]
    models(tmp_path)
    llama(tmp_path / "wide", intermediate=30)
    kit.llama(tmp_path / "deep", layers=3)
    kit.gpt2(tmp_path / "gpt", layers=2)
    kit.qwen2(tmp_path / "biased", layers=2)
    said = kit.config(tmp_path / "biased")
    (tmp_path / "biased/config.json").write_text(json.dumps({**said, "model_type": "llama"}))
    save_file({"math": torch.zeros(16), "odd": torch.zeros(3)}, tmp_path / "g.safetensors")
    more = ", ".join(f"{name}: ./{name}" for name in ("two", "wide", "deep", "gpt", "biased"))
    made = Scratch(tmp_path)
    made.write(HEAD.replace("two: ./two", more) + MOE + body)
    with pytest.raises(mb.RecipeError) as caught:
        made.plan()
    found = [p for p in caught.value.problems if message in p.message]
    assert found, caught.value.problems
    assert hint in (found[0].hint or "")
    assert found[0].at is not None
    assert found[0].at.line > 3
    assert not (tmp_path / "cache/checkpoints").exists()
