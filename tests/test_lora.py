"""LoRA adapters: agreement with PEFT, keys, bounded blocks, and every adapter that is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import mergebuild as mb
from mergebuild.checkpoint.adapter import open_adapter
from mergebuild.checkpoint.lora import LowRank, adapt
from mergebuild.checkpoint.reader import Files
from mergebuild.checkpoint.source import open_checkpoint
from mergebuild.engine.derived import Derivations
from mergebuild.errors import CheckpointError
from mergebuild.kernels.torch import lowrank
from tests import kit
from tests.builder import Scratch, computed

SETTINGS = {"peft_type": "LORA", "r": 2, "lora_alpha": 6}
Q, V = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj"


def config(path: Path, **more: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps({**SETTINGS, **more}))
    return path


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def pair(module: str, out: int = 16, wide: int = 16, rank: int = 2) -> dict[str, Tensor]:
    root = f"base_model.model.{module}"
    return {
        f"{root}.lora_A.weight": normal(rank, wide, seed=len(module)),
        f"{root}.lora_B.weight": normal(out, rank, seed=len(module) + 1),
    }


def adapter(path: Path, tensors: Mapping[str, Tensor] | None = None, **more: Any) -> Path:
    config(path, **more)
    found = dict(pair(Q)) if tensors is None else dict(tensors)
    save_file(found, path / "adapter_model.safetensors")
    return path


NODE = "    merge_method: passthrough\n    models: [{model: m}]\n"
HEAD = "mergebuild: 1\nsources: {m: ./base+./lora, base: ./base, other: ./base+./other}\nnodes:\n"


def scratch(root: Path, nodes: str = f"  out:\n{NODE}    dtype: float32\n") -> Scratch:
    made = Scratch(root)
    made.write(HEAD + nodes)
    return made


def built(root: Path, **more: object) -> dict[str, Tensor]:
    made = scratch(root)
    made.build(**more)
    return kit.read(made.output("out"))


# Agreement with PEFT.

FAMILIES: dict[str, Callable[..., Path]] = {
    "llama": kit.llama,
    "qwen2": kit.qwen2,
    "gpt2": kit.gpt2,
}
PEFT: dict[str, tuple[str, dict[str, Any]]] = {
    "two modules": ("llama", {"target_modules": ["q_proj", "v_proj"], "r": 4}),
    "all linear": ("llama", {"target_modules": "all-linear", "r": 3, "lora_alpha": 5}),
    "a regex": ("llama", {"target_modules": r".*layers\.[12]\..*(up|down)_proj", "r": 2}),
    "some layers": ("llama", {"target_modules": ["o_proj"], "layers_to_transform": [0, 3]}),
    "patterns": ("llama", {
        "target_modules": ["q_proj", "k_proj", "up_proj"], "r": 4, "lora_alpha": 4,
        "rank_pattern": {"k_proj": 2, r"layers\.1\..*q_proj": 6, "model.layers.0.mlp.up_proj": 1},
        "alpha_pattern": {r"layers\.\d\.self_attn\.q_proj": 32, "up_proj": 7},
    }),
    "rslora": ("llama", {"target_modules": ["gate_proj"], "r": 8, "use_rslora": True}),
    "rslora and patterns": ("llama", {
        "target_modules": ["gate_proj", "q_proj"], "use_rslora": True,
        "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"gate_proj": 3},
    }),
    "conv1d": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "conv1d unsaid": ("gpt2", {"target_modules": ["c_attn", "c_proj"]}),
    "embeddings": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "tied embeddings": ("qwen2", {"target_modules": ["embed_tokens"]}),
    "positions": ("gpt2", {"target_modules": ["wpe"]}),
    "the head": ("llama", {"target_modules": ["lm_head"]}),
    "saved": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]}),
    "biases": ("qwen2", {"target_modules": ["q_proj"], "bias": "all"}),
    "own biases": ("qwen2", {"target_modules": ["q_proj"], "bias": "lora_only"}),
    "norms": ("llama", {"target_modules": ["v_proj"], "modules_to_save": ["input_layernorm"]}),
}  # fmt: skip


def trained(peft: Any, base: Path, path: Path, settings: Mapping[str, Any]) -> Any:
    """A PEFT model with random factors, saved to `path`; what it gives once merged."""
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    wrapped.save_pretrained(path)
    fresh = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return peft.PeftModel.from_pretrained(fresh, path).merge_and_unload().state_dict()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", PEFT)
def test_as_peft_merges_it(case: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    family, settings = PEFT[case]
    base = FAMILIES[family](tmp_path / "base")
    expected = trained(peft, base, tmp_path / "lora", settings)
    found, before = built(tmp_path), kit.read(base)
    changed = {name for name in found if not found[name].equal(before[name])}
    assert changed
    assert found.keys() == before.keys()
    for name, tensor in found.items():
        if name in changed:
            torch.testing.assert_close(tensor, expected[name], rtol=2e-6, atol=2e-6)
        else:
            assert tensor.equal(expected[name])


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_of_torch_save(tmp_path: Path) -> None:
    kit.llama(tmp_path / "base")
    adapter(tmp_path / "lora")
    expected = built(tmp_path)
    state = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    torch.save(state, tmp_path / "lora" / "adapter_model.bin")
    (tmp_path / "lora" / "adapter_model.safetensors").unlink()
    plan = scratch(tmp_path).plan()
    assert plan.fresh
    assert all(tensor.equal(expected[name]) for name, tensor in built(tmp_path).items())


# By hand.


def exact(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    return (weight.double() + (b.double() * scale) @ a.double()).float()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("factors", [torch.float32, torch.bfloat16])
def test_rounded_once(dtype: str, factors: torch.dtype, tmp_path: Path) -> None:
    """W + s·B·A in float64, then to float32: not through the weight's own dtype."""
    base = kit.read(kit.llama(tmp_path / "base", dtype=dtype))
    tensors = {name: tensor.to(factors) for name, tensor in pair(Q).items()}
    adapter(tmp_path / "lora", tensors)
    a, b = tensors.values()
    expected = exact(base[f"{Q}.weight"], a, b, 3.0)
    assert built(tmp_path)[f"{Q}.weight"].equal(expected)


def test_a_convolution(tmp_path: Path) -> None:
    weight = normal(6, 3, 2, 2)
    (tmp_path / "base").mkdir()
    save_file({"conv.weight": weight}, tmp_path / "base" / "model.safetensors")
    a, b = normal(2, 3, 2, 2), normal(6, 2, 1, 1)
    tensors = {"base_model.model.conv.lora_A.weight": a, "base_model.model.conv.lora_B.weight": b}
    adapter(tmp_path / "lora", tensors)
    expected = exact(weight.flatten(1), a.flatten(1), b.flatten(1), 3.0).view_as(weight)
    assert built(tmp_path)["conv.weight"].equal(expected)


PREFIXES = {
    "bare": ("h.0.w", "transformer.h.0.w"),
    "wrapped": ("transformer.h.0.w", "h.0.w"),
    "model": ("model.layers.0.w", "layers.0.w"),
    "without model": ("layers.0.w", "model.layers.0.w"),
    "new vision-language": (
        "model.language_model.layers.0.w", "language_model.model.layers.0.w",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PREFIXES)
def test_prefixes_differ(case: str, tmp_path: Path) -> None:
    here, there = PREFIXES[case]
    (tmp_path / "base").mkdir()
    save_file({f"{here}.weight": torch.zeros(4, 3)}, tmp_path / "base" / "model.safetensors")
    tensors = pair(there, 4, 3)
    model = open_checkpoint(tmp_path / "base", "x")
    adapted = adapt(model, {}, open_adapter(adapter(tmp_path / "lora", tensors)))
    assert list(adapted.derived) == [f"{here}.weight"]
    (note,) = adapted.notes
    assert "in the adapter is '" in note


def test_output_dtype_is_that_of_the_weights(tmp_path: Path) -> None:
    base = kit.read(kit.llama(tmp_path / "base", dtype="bfloat16"))
    adapter(tmp_path / "lora")
    a, b = pair(Q).values()
    made = scratch(tmp_path, f"  out:\n{NODE}")
    made.build()
    found = kit.read(made.output("out"))
    assert found[f"{Q}.weight"].equal(exact(base[f"{Q}.weight"], a, b, 3.0).bfloat16())
    assert kit.config(made.output("out"))["torch_dtype"] == "bfloat16"


TASKS = """\
  out:
    merge_method: task_arithmetic
    base_model: base
    dtype: float32
    models: [{model: m, parameters: {weight: 0.5}}, {model: other, parameters: {weight: 2.0}}]
"""


def test_adapters_merged_with_adapters(tmp_path: Path) -> None:
    base = kit.read(kit.llama(tmp_path / "base"))
    one, two = {**pair(Q), **pair(V, 8)}, pair(Q, rank=4)
    adapter(tmp_path / "lora", one)
    adapter(tmp_path / "other", two, r=4)
    made = scratch(tmp_path, TASKS)
    made.build()
    found = kit.read(made.output("out"))
    a, b = pair(Q).values()
    c, d = two.values()
    w = base[f"{Q}.weight"]
    expected = w + 0.5 * (exact(w, a, b, 3.0) - w) + 2.0 * (exact(w, c, d, 1.5) - w)
    torch.testing.assert_close(found[f"{Q}.weight"], expected)
    assert not found[f"{V}.weight"].equal(base[f"{V}.weight"])
    assert found["lm_head.weight"].equal(base["lm_head.weight"])


# Keys and what is built anew.


def test_only_what_changed_is_computed(tmp_path: Path) -> None:
    kit.llama(tmp_path / "base")
    adapter(tmp_path / "lora", {**pair(Q), **pair(V, 8)})
    made = scratch(tmp_path)
    names = [f"{Q}.weight", f"{V}.weight"]
    assert computed(made.build()) == [("out", name) for name in names]
    assert made.build() == []
    changed = {**pair(Q), **{name: t + 1 for name, t in pair(V, 8).items()}}
    adapter(tmp_path / "lora", changed)
    assert computed(made.build()) == [("out", names[1])]
    adapter(tmp_path / "lora", changed, lora_alpha=7)
    assert computed(made.build()) == [("out", name) for name in names]
    adapter(tmp_path / "lora", changed, lora_dropout=0.5, inference_mode=True, base_model="x")
    assert made.build() == []


def test_provenance_names_the_adapter(tmp_path: Path) -> None:
    kit.llama(tmp_path / "base")
    adapter(tmp_path / "lora")
    built(tmp_path)
    (leaf,) = json.loads((tmp_path / "build/out/mergebuild.json").read_text())["provenance"][
        "leaves"
    ]
    assert (leaf["model"], leaf["lora"]) == ("./base", {"model": "./lora"})


def test_golden_key(tmp_path: Path) -> None:
    """Changes only together with the version of the operation, or with KEY_SCHEMA."""
    info = open_checkpoint(kit.llama(tmp_path / "base"), "x").tensors[f"{Q}.weight"]
    a, b = replace(info, name="a"), replace(info, name="b")
    tensor = LowRank(info, a, b, 3.0, False)
    keys = {info: "0" * 32, a: "1" * 32, b: "2" * 32}
    assert tensor.key(keys) == "49e883b44472004376ff83179ab9b3fa"
    others = [
        replace(tensor, scale=2.0), replace(tensor, transposed=True), replace(tensor, a=b),
        replace(tensor, b=a), replace(tensor, weight=a),
    ]  # fmt: skip
    assert len({one.key(keys) for one in [tensor, *others]}) == 6


@pytest.mark.parametrize("elements", [1, 5, 16, 48, 1 << 17])
def test_any_blocks_and_any_reads(
    elements: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However a tensor is read, its values are those of the whole."""
    base = kit.read(kit.llama(tmp_path / "base"))
    adapter(tmp_path / "lora")
    monkeypatch.setattr(lowrank, "_ELEMENTS", elements)
    model = open_checkpoint(tmp_path / "base", "x")
    derived = adapt(model, {}, open_adapter(tmp_path / "lora")).derived[f"{Q}.weight"]
    a, b = pair(Q).values()
    expected = exact(base[f"{Q}.weight"], a, b, 3.0).flatten()
    with Files() as files:
        derivations = Derivations(files)
        reader = derivations.reader(derived)
        for start, stop in ((0, 256), (0, 1), (15, 17), (7, 100), (255, 256), (5, 5)):
            into = memoryview(bytearray(4 * (stop - start)))
            reader.read(start, stop, into)
            values = torch.frombuffer(into, dtype=torch.float32) if stop > start else torch.empty(0)
            assert values.equal(expected[start:stop])
        with pytest.raises(ValueError, match="of 256"):
            reader.read(0, 257, memoryview(bytearray(4 * 257)))
        derivations.close()


def test_any_threads_and_chunks_give_the_same_bytes(tmp_path: Path) -> None:
    kit.llama(tmp_path / "base", hidden=96, intermediate=1500, vocab=64, dtype="bfloat16")
    mlp = "model.layers.0.mlp.up_proj"
    adapter(tmp_path / "lora", {**pair(Q, 96, 96), **pair(mlp, 1500, 96)})
    adapter(tmp_path / "other", pair(mlp, 1500, 96, rank=4), r=4)
    found = set()
    for number, settings in enumerate((mb.Settings(1, 1 << 16), mb.Settings(4, 1 << 17))):
        made = scratch(tmp_path, TASKS)
        plan = mb.plan(
            tmp_path / made.recipe, cache=tmp_path / f"cache{number}", settings=settings,
            outputs={"out": tmp_path / f"out{number}"},
        )  # fmt: skip
        mb.build(plan)
        found.add((tmp_path / f"out{number}" / "model.safetensors").read_bytes())
    assert len(found) == 1


def test_a_changed_adapter_is_noticed(tmp_path: Path) -> None:
    kit.llama(tmp_path / "base")
    adapter(tmp_path / "lora")
    plan = scratch(tmp_path).plan()
    adapter(tmp_path / "lora", {name: t + 1 for name, t in pair(Q).items()})
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors' changed while"):
        mb.build(plan)


def test_an_output_does_not_replace_the_adapter(tmp_path: Path) -> None:
    kit.llama(tmp_path / "base")
    (tmp_path / "build").mkdir()
    adapter(tmp_path / "build" / "out")
    made = Scratch(tmp_path)
    made.write(HEAD.replace("./base+./lora", "./base+./build/out") + f"  out:\n{NODE}")
    with pytest.raises(mb.UsageError, match="overlaps with source"):
        made.build()


# What is refused.


def one(**more: Any) -> Callable[[Path], object]:
    return lambda path: adapter(path, **more)


def of(tensors: Mapping[str, Tensor], **more: Any) -> Callable[[Path], object]:
    return lambda path: adapter(path, tensors, **more)


ROOT = "base_model.model."
A, B = (f"{ROOT}{Q}.lora_{part}.weight" for part in "AB")
REFUSED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "DoRA": (one(use_dora=True), "the adapter uses DoRA, which", "merge_and_unload"),
    "DoRA unsaid": (
        of({**pair(Q), f"{ROOT}{Q}.lora_magnitude_vector": normal(16)}), "uses DoRA", "merge",
    ),
    "LoHa": (one(peft_type="LOHA"), "uses LOHA", "merge_and_unload"),
    "IA3": (one(peft_type="IA3"), "uses IA3", "merge_and_unload"),
    "QALoRA": (one(use_qalora=True), "uses QALoRA", "merge"),
    "a bias": (one(lora_bias=True), "a bias on lora_B", "merge"),
    "a bias unsaid": (of({**pair(Q), f"{ROOT}{Q}.lora_B.bias": normal(16)}), "a bias on", "merge"),
    "replication": (one(layer_replication=[[0, 2], [1, 2]]), "layer replication", "merge"),
    "tokens": (one(trainable_token_indices=[1]), "trainable tokens", "merge"),
    "aLoRA": (one(alora_invocation_tokens=[1]), "activated LoRA", "merge"),
    "parameters": (one(target_parameters=["w"]), "target_parameters", "merge"),
    "pissa": (one(init_lora_weights="pissa_niter_4"), "began with 'pissa_niter_4'", "save it"),
    "loftq": (one(init_lora_weights="loftq"), "began with 'loftq'", "save it again"),
    "nothing matches": (of(pair("blocks.0.x")), "the adapter fits nothing in the model", "another"),
    "one does not": (
        of({**pair(Q), **pair("model.layers.9.x")}), "does not have: 'model.layers.9.x.weight'",
        "another model",
    ),
    "many do not": (
        of(pair(Q) | {k: v for i in range(5) for k, v in pair(f"model.layers.{i + 9}.x").items()}),
        "and 2 more", "another model",
    ),
    "another shape": (of(pair(Q, 16, 8)), "changes 16 x 8, but", "another model"),
    "resized": (
        of({**pair(Q), f"{ROOT}lm_head.weight": normal(40, 16)}), "is [40, 16], but [32, 16]",
        "vocabulary was resized",
    ),
    "half": (of({A: normal(2, 16)}), "has no lora_B", "fetch"),
    "the other half": (of({B: normal(16, 2)}), "has no lora_A", "fetch"),
    "halves that do not fit": (of({A: normal(3, 16), B: normal(16, 2)}), "do not fit", ""),
    "flat": (of({A: normal(2), B: normal(16, 2)}), "do not fit", ""),
    "another rank": (one(r=4), "has rank 2, but 'adapter_config.json' says 4", "belong together"),
    "twice": (
        of({**pair(Q), A.replace("_A.", "_A.default."): normal(2, 16)}), "are the same one", "",
    ),
    "unknown": (of({**pair(Q), f"{ROOT}{Q}.lora_E": normal(2)}), "is of no kind", "merge"),
    "integers": (of({n: t.to(torch.int8) for n, t in pair(Q).items()}), "of int8", "dequantised"),
    "empty": (of({}), "holds no tensors", "fetch"),
    "no alpha": (one(lora_alpha=None), "'lora_alpha' in", ""),
    "an odd alpha": (one(lora_alpha="16"), "says '16', which is no such number", ""),
    "an infinite alpha": (one(lora_alpha=math.inf), "no such number", ""),
    "rank 0": (one(r=0), "'r' in 'adapter_config.json' says 0", ""),
    "an odd pattern": (one(rank_pattern=["q"]), "'rank_pattern' in", ""),
    "a bad pattern": (one(alpha_pattern={"(": 1}), "'(' is not a regular expression", ""),
    "a long pattern": (one(alpha_pattern={"a" * 1001: 1}), "a pattern is too long", ""),
    "a bad config": (
        lambda p: (adapter(p) / "adapter_config.json").write_text("{"), "not JSON", "",
    ),
    "no weights": (config, "neither 'adapter_model.safetensors' nor", "fetch"),
    "no adapter": (lambda p: kit.llama(p), "it holds no 'adapter_config.json'", "name the folder"),
    "a damaged file": (
        lambda p: (config(p) / "adapter_model.safetensors").write_bytes(b"x"), "too few", "fetch",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    prepare, message, hint = REFUSED[case]
    kit.llama(tmp_path / "base", layers=2)
    prepare(tmp_path / "lora")
    with pytest.raises(CheckpointError) as caught:
        scratch(tmp_path).plan()
    (problem,) = caught.value.problems
    assert message in problem.message
    assert "source 'm': " in problem.message
    assert str(tmp_path / "lora") in problem.message
    assert hint in (problem.hint or "")
    assert problem.at is not None


def test_a_tied_head_cannot_be_changed_alone(tmp_path: Path) -> None:
    kit.qwen2(tmp_path / "base")
    adapter(tmp_path / "lora", {**pair(Q), **pair("lm_head", 32)})
    with pytest.raises(CheckpointError) as caught:
        scratch(tmp_path).plan()
    assert "no output head of its own" in (caught.value.problems[0].hint or "")


def test_not_there(tmp_path: Path) -> None:
    kit.llama(tmp_path / "base")
    with pytest.raises(mb.RecipeError, match=r"source 'm': there is no '\./lora'"):
        scratch(tmp_path).plan()
