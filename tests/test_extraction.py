"""Nodes of kind `lora`: agreement with PEFT and with the best approximation there is, keys, use of
the adapter within the recipe, and every mistake with its place."""

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
from mergebuild.checkpoint.peft import Factored, adapter_config
from mergebuild.kernels.torch.extraction import factors
from tests import kit
from tests.builder import Scratch, computed, edited

HEAD = "mergebuild: 1\nsources: {base: ./base, fine: ./fine}\nnodes:\n"
EX = "  ex:\n    kind: lora\n    model: fine\n    base_model: base\n"
BACK = "  back:\n    merge_method: passthrough\n    models: [{model: base+ex}]\n"
AGAIN = BACK.replace("back:", "again:").replace("base+ex", "./base+./build/ex")
Q = "model.layers.0.self_attn.q_proj"


def scratch(root: Path, body: str = "    rank: 3\n", more: str = "") -> Scratch:
    made = Scratch(root)
    made.write(HEAD + EX + body + more)
    return made


def nearest(matrix: Tensor, rank: int) -> Tensor:
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    product: Tensor = (u[:, :rank] * s[:rank]) @ vh[:rank]
    return product


# Agreement with PEFT, and with the best approximation.

FAMILIES: dict[str, Callable[..., Path]] = {
    "llama": kit.llama,
    "qwen2": kit.qwen2,
    "gpt2": kit.gpt2,
}
Expected = dict[str, int | str]
"""What becomes of a tensor by a part of its name, the first that fits: its rank, whole or left."""

CASES: dict[str, tuple[str, str, Expected]] = {
    "everything": ("llama", "rank: 3", {"norm": "left", "": 3}),
    "full rank": ("llama", "rank: 99", {"norm": "left", "": 99}),
    "an alpha": ("llama", "rank: 4\n    alpha: 7.5", {"norm": "left", "": 4}),
    "some modules": (
        "llama", "rank: 2\n    modules: [q_proj, '*layers.1*mlp*', '/o_pro.\\.w/']",
        {"q_proj": 2, "o_proj": 2, "layers.1.mlp": 2, "": "left"},
    ),
    "ranks by pattern": (
        "llama", "rank: {'layers\\.1\\..*q_proj': 1, q_proj: 5, 'model.layers.0.mlp.*': 2, '*': 4}",
        {"layers.1.self_attn.q_proj": 1, "q_proj": 5, "layers.0.mlp": 2, "norm": "left", "": 4},
    ),
    "norms and head whole": (
        "llama", "rank: 3\n    modules_to_save: [norm, lm_head]",
        {"norm": "whole", "lm_head": "whole", "": 3},
    ),
    "embeddings whole": (
        "llama", "rank: 3\n    embeddings: save", {"embed": "whole", "norm": "left", "": 3},
    ),
    "no embeddings": (
        "llama", "rank: 3\n    embeddings: leave", {"embed": "left", "norm": "left", "": 3},
    ),
    "tied": ("qwen2", "rank: 3", {"norm": "left", "bias": "left", "": 3}),
    "conv1d": ("gpt2", "rank: 5", {"ln_": "left", "bias": "left", "": 5}),
    "conv1d, norms whole": (
        "gpt2", "rank: 5\n    modules_to_save: [ln_]", {"ln_": "whole", "bias": "left", "": 5},
    ),
}  # fmt: skip


def expected(name: str, base: Tensor, fine: Tensor, becomes: Expected) -> Tensor:
    said = next(said for part, said in becomes.items() if part in name)
    if isinstance(said, str):
        return fine if said == "whole" else base
    return (base.double() + nearest(fine.double() - base.double(), said)).float()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_peft_and_mergebuild_read_the_best_approximation(case: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    family, body, becomes = CASES[case]
    base = kit.read(FAMILIES[family](tmp_path / "base"))
    fine = kit.read(FAMILIES[family](tmp_path / "fine", near=tmp_path / "base", seed=1))
    made = scratch(tmp_path, f"    {body}\n", BACK + "outputs: [ex, back]\n")
    made.build()
    wanted = {name: expected(name, base[name], fine[name], becomes) for name in base}
    back = kit.read(made.output("back"))
    for name, tensor in back.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-5, atol=1e-6, msg=name)

    made.write("mergebuild: 1\nnodes:\n" + AGAIN)
    made.build()
    again = kit.read(made.output("again"))
    assert all(tensor.equal(back[name]) for name, tensor in again.items())

    load = transformers.AutoModelForCausalLM.from_pretrained
    plain = load(tmp_path / "base", dtype=torch.float32)
    wrapped = peft.PeftModel.from_pretrained(plain, made.output("ex"))
    ids = torch.tensor([[3, 4, 5, 6]])
    through = wrapped(ids).logits
    merged = wrapped.merge_and_unload()
    if family == "llama":  # of a tied head PEFT knows only once it has merged
        torch.testing.assert_close(merged(ids).logits, through, rtol=1e-4, atol=1e-5)
    state = merged.state_dict()
    for name, tensor in wanted.items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-5, atol=2e-6, msg=name)


@pytest.mark.parametrize(
    ("shape", "rank", "transposed"),
    [
        ((7, 5), 3, False),
        ((5, 7), 3, False),
        ((6, 6), 6, True),
        ((4, 9), 2, True),
        ((1, 8), 1, False),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 0.25, -2.0])
def test_the_factors_are_the_nearest_of_their_rank(
    shape: tuple[int, int], rank: int, transposed: bool, scale: float
) -> None:
    generator = torch.Generator().manual_seed(sum(shape))
    one, other = (torch.randn(shape, generator=generator) for _ in range(2))
    raw = [(bytearray(x.numpy().tobytes()), "float32") for x in (one, other)]
    said = {"rank": rank, "scale": scale, "transposed": transposed, "dtype": "float32"}
    made = factors(raw[0], raw[1], shape, **said)  # type: ignore[arg-type]
    delta = (other.double() - one.double()).T if transposed else other.double() - one.double()
    b = torch.frombuffer(bytearray(made.b), dtype=torch.float32).view(-1, rank)
    a = torch.frombuffer(bytearray(made.a), dtype=torch.float32).view(rank, -1)
    product = scale * b.double() @ a.double()
    torch.testing.assert_close(product, nearest(delta, rank), rtol=1e-5, atol=1e-5)
    sizes = [b.norm(dim=0), a.norm(dim=1)]
    torch.testing.assert_close(*sizes, rtol=1e-4, atol=1e-5)
    assert (sizes[0].diff() <= 1e-5).all()


def test_no_direction_where_nothing_differs() -> None:
    """A delta of lower rank than asked for: what is left over is 0, and no number is bad."""
    one = torch.zeros(6, 5)
    other = torch.outer(torch.arange(6.0), torch.ones(5))
    raw = [(bytearray(x.numpy().tobytes()), "float32") for x in (one, other)]
    made = factors(raw[0], raw[1], (6, 5), rank=3, scale=1.0, transposed=False, dtype="float32")
    b = torch.frombuffer(bytearray(made.b), dtype=torch.float32).view(6, 3)
    a = torch.frombuffer(bytearray(made.a), dtype=torch.float32).view(3, 5)
    assert b.isfinite().all()
    assert a.isfinite().all()
    torch.testing.assert_close(b @ a, other, rtol=1e-5, atol=1e-5)


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    kit.llama(tmp_path / "base", layers=1)
    kit.llama(tmp_path / "fine", layers=1, near=tmp_path / "base", seed=1)
    tensors = kit.read(tmp_path / "fine")
    tensors[f"{Q}.weight"][0, 0] = torch.inf
    save_file(tensors, tmp_path / "fine" / "model.safetensors")
    made = scratch(tmp_path)
    with pytest.raises(mb.BuildError, match="has 1 values that are not finite"):
        made.build()
    mb.build(made.plan(), options=mb.Options(allow_nonfinite=True))
    assert kit.read(made.output("ex"))[f"base_model.model.{Q}.lora_A.weight"].isnan().all()


# Keys, reuse and determinism.


def models(root: Path, **more: Any) -> None:
    kit.llama(root / "base", layers=2, **more)
    kit.llama(root / "fine", layers=2, near=root / "base", seed=1, **more)


def test_only_what_changed_is_computed(tmp_path: Path) -> None:
    models(tmp_path)
    made = scratch(tmp_path, "    rank: {q_proj: 3, '*': 2}\n")
    assert len(computed(made.build())) == 2 * (2 * 7 + 2)
    assert made.build() == []
    with edited(made, "q_proj: 3", "q_proj: 4"):
        assert {tensor.split(".")[6] for _, tensor in computed(made.build())} == {"q_proj"}
    with edited(made, "'*': 2", "'k_proj|.*': 2"), edited(made, "ex:", "renamed:"):
        assert computed(made.build()) == []
    with edited(made, "'*': 2}", "'*': 2}\n    alpha: 2"):
        changed = {tensor.split(".")[6] for _, tensor in computed(made.build())}
        assert changed == {"q_proj"}  # where the rank is 2 the scale is 1 as before
    with edited(made, "'*': 2}", "'*': 2}\n    dtype: bfloat16"):
        assert len(computed(made.build())) == 2 * (2 * 7 + 2)


def test_what_the_finetune_left_alone_is_no_target(tmp_path: Path) -> None:
    models(tmp_path)
    fine = kit.read(tmp_path / "base")
    fine[f"{Q}.weight"] = fine[f"{Q}.weight"] + 1
    fine["model.norm.weight"] = fine["model.norm.weight"] + 1
    save_file(fine, tmp_path / "fine" / "model.safetensors")
    made = scratch(tmp_path)
    made.build()
    names = [f"base_model.model.{Q}.lora_{part}.weight" for part in "AB"]
    assert list(kit.read(made.output("ex"))) == names
    said = json.loads((made.output("ex") / "adapter_config.json").read_text())
    assert said["target_modules"] == [Q]
    (note,) = made.plan().nodes["ex"].notes
    assert "no matrix: left out" in note
    assert "'model.norm.weight'" in note


def test_any_threads_give_the_same_bytes(tmp_path: Path) -> None:
    models(tmp_path, hidden=96, intermediate=200, dtype="bfloat16")
    found = set()
    for jobs in (1, 4):
        made = scratch(tmp_path, "    rank: 8\n", BACK + "outputs: [ex, back]\n")
        plan = mb.plan(
            tmp_path / made.recipe, cache=tmp_path / f"cache{jobs}", settings=mb.Settings(jobs),
            outputs={name: tmp_path / f"{name}{jobs}" for name in ("ex", "back")},
        )  # fmt: skip
        mb.build(plan)
        found.add(
            (tmp_path / f"ex{jobs}/adapter_model.safetensors").read_bytes()
            + (tmp_path / f"back{jobs}/model.safetensors").read_bytes()
        )
    assert len(found) == 1
    assert kit.read(tmp_path / "back1")[f"{Q}.weight"].dtype is torch.bfloat16
    assert kit.read(tmp_path / "ex1")[f"base_model.model.{Q}.lora_A.weight"].dtype is torch.bfloat16


def test_the_config_says_what_was_written() -> None:
    made = [
        Factored("model.layers.0.q", 4, False, False),
        Factored("model.layers.1.q", 2, False, False),
        Factored("layers.0.q", 8, False, False),
        Factored("v", 4, False, False),
        Factored("model.k", 3, False, False),
    ]
    matrices = [f"{one.module}.weight" for one in made] + ["other.k.weight"]
    said = json.loads(
        adapter_config(
            made, saved=["n.weight", "n.bias"], matrices=matrices, alpha=16.0,
            config={"architectures": ["XForCausalLM"]}, origin="org/base",
        )
    )  # fmt: skip
    assert said["r"] == 4
    assert list(said["rank_pattern"].items()) == [
        (r"model\.layers\.0\.q", 4), (r"model\.layers\.1\.q", 2), (r"layers\.0\.q", 8), ("k", 3),
    ]  # fmt: skip
    assert said["alpha_pattern"] == {}
    assert said["lora_alpha"] == 16
    assert said["target_modules"] == ["model.k", "q", "v"]
    assert said["modules_to_save"] == ["n"]
    assert said["task_type"] == "CAUSAL_LM"
    assert said["base_model_name_or_path"] == "org/base"


# Within a recipe.


def test_an_adapter_on_another_node(tmp_path: Path) -> None:
    """`node+adapter` with either from the recipe or from disk, chained, with nothing written."""
    models(tmp_path)
    chain = (
        "  half:\n    merge_method: linear\n    models:\n"
        "      - {model: base, parameters: {weight: 1}}\n"
        "      - {model: fine, parameters: {weight: 1}}\n"
        "  out:\n    merge_method: passthrough\n    models: [{model: half+ex}]\n"
        "  disk:\n    merge_method: passthrough\n    models: [{model: half+./build/ex}]\n"
    )
    made = scratch(tmp_path, "    rank: 99\n", chain + "outputs: [ex, out]\n")
    made.build()
    base, fine = kit.read(tmp_path / "base"), kit.read(tmp_path / "fine")
    out = kit.read(made.output("out"))
    wanted = (base[f"{Q}.weight"] + fine[f"{Q}.weight"]) / 2 + fine[f"{Q}.weight"]
    torch.testing.assert_close(out[f"{Q}.weight"], wanted - base[f"{Q}.weight"])
    made.write((tmp_path / "recipe.yaml").read_text().replace("[ex, out]", "[disk]"))
    made.build()
    again = kit.read(made.output("disk"))
    assert all(tensor.equal(again[name]) for name, tensor in out.items())
    (folder,) = [p for p in (tmp_path / "cache/checkpoints").iterdir()
                 if (p / "adapter_config.json").exists()]  # fmt: skip
    assert sorted(p.name for p in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "mergebuild.json",
    ]  # fmt: skip
    assert not any("+" in p.name for p in (tmp_path / "build").iterdir())


def test_the_command_shows_it(tmp_path: Path) -> None:
    models(tmp_path)
    scratch(tmp_path, more=BACK + "outputs: [ex, back]\n")
    planned = kit.run("plan", "recipe.yaml", cwd=tmp_path)
    assert planned.code == 0, planned.stderr
    for text in ("extract_lora: reads", "apply_lora: reads", "in flight only",
                 "differs and is no matrix"):  # fmt: skip
        assert text in planned.stdout
    built = kit.run("build", "recipe.yaml", cwd=tmp_path)
    assert built.code == 0, built.stderr
    tensor = f"base_model.model.{Q}.lora_A.weight"
    explained = kit.run("explain", "recipe.yaml", "ex", tensor, cwd=tmp_path)
    for text in ("part", "rank ", "content of 'fine'", "extract_lora"):
        assert text in explained.stdout
    card = (tmp_path / "build/ex/README.md").read_text()
    for text in ("library_name: peft", "LoRA", "2106.09685"):
        assert text in card
    verified = kit.run("verify", "build/ex", "build/back", cwd=tmp_path)
    assert verified.code == 0, verified.stdout


# Mistakes.

MISTAKES: dict[str, tuple[str, str, str]] = {
    "no rank": ("", "node 'ex': 'rank' is missing", "rank: 16"),
    "rank 0": ("    rank: 0\n", "'rank' must be at least 1, not 0", ""),
    "an odd rank": ("    rank: much\n", "'rank' must be a whole number", ""),
    "a bad pattern": ("    rank: {'(': 2}\n", "pattern '(' cannot be used", ""),
    "an endless pattern": ("    rank: {'(a+)+': 2}\n", "cannot be used: it may match for ages", ""),
    "no rank for some": ("    rank: {q_proj: 2}\n", "no pattern of 'rank' fits the module: "
                         "'lm_head.weight' and 13 more", "end the patterns with '*'"),
    "alpha 0": ("    rank: 2\n    alpha: 0\n", "'alpha' must be above 0", "leave it out"),
    "an odd alpha": ("    rank: 2\n    alpha: [1]\n", "must be a finite number, not a list", ""),
    "a slip": ("    rank: 2\n    module: [q]\n", "unknown key 'module'", "did you mean 'modules'"),
    "a merge's key": ("    rank: 2\n    merge_method: ties\n", "unknown key 'merge_method'",
                      "only nodes of kind 'merge'"),
    "embeddings": ("    rank: 2\n    embeddings: loar\n", "must be one of 'lora',", "'lora'"),
    "nothing": ("    rank: 2\n    modules: [nowhere]\n", "no matrix differs between the two", ""),
    "as a model": ("    rank: 2\n  x:\n    merge_method: passthrough\n    models: [{model: ex}]\n",
                   "node 'x': node 'ex' is a LoRA, not a model", "'BASE+ex'"),
    "as a base": ("    rank: 2\n  x:\n    kind: lora\n    rank: 1\n    model: fine\n"
                  "    base_model: ex\n", "node 'ex' is a LoRA, not a model", ""),
    "a model as LoRA": ("    rank: 2\n  x:\n    merge_method: passthrough\n"
                        "    models: [{model: base}]\n  y:\n    merge_method: passthrough\n"
                        "    models: [{model: base+x}]\n", "node 'x' is a model,", "'lora'"),
    "two LoRAs": ("    rank: 2\n  x:\n    merge_method: passthrough\n"
                  "    models: [{model: a+ex}]\n", "applies more than one LoRA", ""),
    "a revision": ("    rank: 2\n  x:\n    merge_method: passthrough\n"
                   "    models: [{model: base+ex@main}]\n", "node 'ex' takes no revision", "Hub"),
    "a cycle": ("    rank: 2\n  x:\n    merge_method: passthrough\n"
                "    models: [{model: x+ex}]\n", "cycle: x -> x+ex -> x", ""),
    "a kind": ("    rank: 2\n  x: {kind: lorra, rank: 2}\n", "'kind' must be one of", "'lora'"),
    "the base itself": ("    rank: 2\n  x: {kind: lora, rank: 2, model: base, base_model: base}\n",
                        "'model' is the base itself", "finetune"),
    "no model": ("    rank: 2\n  x: {kind: lora, rank: 2}\n", "'model' is missing", "finetune"),
    "another size": ("    rank: 2\n  x: {kind: lora, rank: 2, base_model: fine, model: big}\n",
                           "shapes differ: [32, 16] in 'fine', [40, 16] in 'big'", "grew"),
    "it fits nothing": ("    rank: 2\n  x:\n    merge_method: passthrough\n"
                        "    models: [{model: gpt+ex}]\n", "the adapter fits nothing", "another"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_located(case: str, tmp_path: Path) -> None:
    body, message, hint = MISTAKES[case]
    models(tmp_path)
    kit.llama(tmp_path / "big", layers=2, vocab=40)
    kit.gpt2(tmp_path / "gpt", layers=1)
    made = Scratch(tmp_path)
    more = "fine: ./fine, a: ./base+./lora, big: ./big, gpt: ./gpt"
    made.write(HEAD.replace("fine: ./fine", more) + EX + body)
    with pytest.raises(mb.RecipeError) as caught:
        made.plan()
    found = [p for p in caught.value.problems if message in p.message]
    assert found, caught.value.problems
    assert hint in (found[0].hint or "")
    assert found[0].at is not None
    assert found[0].at.line > 3
    assert not (tmp_path / "cache/checkpoints").exists()
