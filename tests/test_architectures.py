"""Real architectures: what is merged or stacked loads in transformers as it is, and says what the
same models say that were merged, or put together, in memory."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests import kit
from tests.builder import Scratch
from tests.zoo import FAMILIES, Family

# A stack's layers in the output: (model, layer) each. The towers have three, the main stacks four.
DEEPER = [("a", 0), ("a", 1), ("a", 2), ("b", 1), ("b", 2), ("b", 3)]
SHALLOWER = [("a", 0), ("b", 2), ("b", 3)]
TOWER = [("a", 0), ("a", 1), ("b", 1), ("b", 2)]


COUNTS = (
    "num_layers", "num_decoder_layers", "decoder_layers", "encoder_layers", "num_hidden_layers",
    "depth",
)  # fmt: skip


def slices(layers: Sequence[tuple[str, int]]) -> str:
    """The slices that these layers are, for a recipe."""
    found: list[tuple[str, int, int]] = []
    for model, layer in layers:
        if found and found[-1][0] == model and found[-1][2] == layer:
            found[-1] = model, found[-1][1], layer + 1
        else:
            found.append((model, layer, layer + 1))
    parts = (f"{{sources: [{{model: {m}, layer_range: [{i}, {j}]}}]}}" for m, i, j in found)
    return f"[{', '.join(parts)}]"


def recipe(family: Family) -> str:
    """Every node that the tests below look at."""
    main, *other = family.layers
    nodes = [
        "  merged:\n    merge_method: linear\n    models:\n"
        "      - {model: a, parameters: {weight: 0.25}}\n"
        "      - {model: b, parameters: {weight: 0.75}}\n"
    ]
    stacked = {"deeper": (main, DEEPER), "shallower": (main, SHALLOWER)}
    if other:
        stacked["tower"] = other[0], TOWER
    for name, (stack, layers) in stacked.items():
        body = f"    slices: {slices(layers)}\n"
        if stack != "default":
            body = f"    modules:\n      {stack}:\n        slices: {slices(layers)}\n"
        nodes.append(f"  {name}:\n    merge_method: passthrough\n{body}")
    return "mergebuild: 1\nsources: {a: ./a, b: ./b}\nnodes:\n" + "".join(nodes)


BY_COMMAND = ("gpt2", "t5", "qwen3-vl")
"""What is built by the real command; the rest in this process."""


def build(name: str, root: Path) -> None:
    family = FAMILIES[name]
    for seed, model in enumerate("ab"):
        family.make(root / model, seed)
    text = recipe(family)
    if name not in BY_COMMAND:
        scratch = Scratch(root)
        scratch.write(text)
        scratch.build()
        return
    nodes = [line.strip(" :") for line in text.splitlines() if line.startswith("  ") and
             line[2] != " "]  # fmt: skip
    places = "".join(f"  {node}: build/{node}\n" for node in nodes)
    kit.write_recipe(root / "recipe.yaml", f"{text}outputs:\n{places}")
    found = kit.run("build", "recipe.yaml", cwd=root)
    assert found.code == 0, found.stderr


def put(model: nn.Module, path: str, module: Any) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def assembled(
    models: dict[str, Any], path: str, layers: Sequence[tuple[str, int]], after: Sequence[str]
) -> Any:
    """The first model with these layers in its stack at `path`, and with the modules `after` of the
    last, put together in memory."""
    model = copy.deepcopy(models[layers[0][0]])
    stack = nn.ModuleList(copy.deepcopy(models[m].get_submodule(f"{path}.{i}")) for m, i in layers)
    for place, layer in enumerate(stack):
        for module in layer.modules():
            for key in {"layer_idx", "layer_id"} & vars(module).keys():
                setattr(module, key, place)
    put(model, path, stack)
    for name in after:
        put(model, name, attrgetter(name)(models[layers[-1][0]]))
    return model


def told(model: Any, layers: Sequence[tuple[str, int]], was: int) -> None:
    """Say in a model's configuration what the layers are of its stack that had `was`: no other has
    as many."""
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    for config in configs.values():
        for key in COUNTS:
            if getattr(config, key, None) == was:
                setattr(config, key, len(layers))
        for key in ("layer_types", "attention_layers", "no_rope_layers"):
            listed = getattr(config, key, None)
            if listed is not None and len(listed) == was:
                setattr(config, key, [listed[i] for _, i in layers])
    for module in model.modules():
        if hasattr(module, "deepstack_visual_indexes") and layers is TOWER:
            module.deepstack_visual_indexes = [0, 3]


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name: str, tmp_path: Path) -> None:
    """Merged, deeper, shallower, and with another stack made deeper."""
    family = FAMILIES[name]
    build(name, tmp_path)
    models = {model: family.load(tmp_path / model) for model in "ab"}
    built = tmp_path / "build"

    expect(family, built / "merged", merged(models))
    main, *other = family.layers.values()
    for node, layers in (("deeper", DEEPER), ("shallower", SHALLOWER)):
        expected = assembled(models, main, layers, family.after)
        told(expected, layers, 4)
        found = expect(family, built / node, expected)
        assert len(found.get_submodule(main)) == len(layers)
    for path in other:
        expected = assembled(models, path, TOWER, family.behind)
        told(expected, TOWER, 3)
        found = expect(family, built / "tower", expected)
        assert [len(found.get_submodule(stack)) for stack in (main, path)] == [4, 4]


def expect(family: Family, path: Path, expected: Any) -> Any:
    """The checkpoint as transformers loads it, once it says what is expected."""
    found = family.load(path)
    torch.testing.assert_close(family.ask(found), family.ask(expected), rtol=1e-4, atol=1e-5)
    return found


def merged(models: dict[str, Any]) -> Any:
    """The mean of both, a quarter of the first, each tensor once however often it is used."""
    model = copy.deepcopy(models["a"])
    mine, other = model.state_dict(), models["b"].state_dict()
    with torch.no_grad():
        for key in {tensor.data_ptr(): key for key, tensor in mine.items()}.values():
            if mine[key].is_floating_point():
                mine[key].mul_(0.25).add_(other[key], alpha=0.75)
    return model


OTHER_CLASSES: dict[str, tuple[str, str, str]] = {
    "gpt2": ("GPT2Model", "transformer", "'' where they begin with 'transformer.'"),
    "bert": ("BertModel", "bert", "'' where they begin with 'bert.'"),
    "qwen3-vl": ("Qwen3VLModel", "model", "'' where they begin with 'model.'"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_CLASSES)
def test_a_model_saved_by_another_class(name: str, tmp_path: Path) -> None:
    """Without its head, it calls its tensors otherwise; the head is the first model's alone."""
    bare, part, note = OTHER_CLASSES[name]
    family = FAMILIES[name]
    for seed, model in enumerate("ab"):
        family.make(tmp_path / model, seed)
    models = {model: family.load(tmp_path / model) for model in "ab"}
    models["b"].get_submodule(part).save_pretrained(tmp_path / "b")
    assert type(models["b"].get_submodule(part)).__name__ == bare
    put(models["b"], part, copy.deepcopy(models["b"].get_submodule(part)))
    expected = merged(models)
    for head, module in models["a"].named_children():
        if head != part:
            put(expected, head, module)
    expected.tie_weights()
    scratch = Scratch(tmp_path)
    scratch.write(recipe(family).partition("  deeper:")[0])
    assert any(note in told for told in scratch.plan().nodes["merged"].notes)
    scratch.build()
    expect(family, scratch.output("merged"), expected)


def test_t5_begins_with_the_bias_of_its_first_layer(tmp_path: Path) -> None:
    """Wherever its first layer goes: the bias of positions is used by all others."""
    family = FAMILIES["t5"]
    family.make(tmp_path / "a", 0)
    models = {"a": family.load(tmp_path / "a")}
    layers = [("a", 2), ("a", 3), ("a", 0), ("a", 1)]
    expected = assembled(models, "decoder.block", layers, ())
    old, new = (expected.get_submodule(f"decoder.block.{i}.layer.0.SelfAttention") for i in (2, 0))
    new.relative_attention_bias, new.has_relative_attention_bias = old.relative_attention_bias, True
    old.has_relative_attention_bias = False
    scratch = Scratch(tmp_path)
    scratch.write(
        "mergebuild: 1\nsources: {a: ./a}\nnodes:\n  out:\n    merge_method: passthrough\n"
        f"    slices: {slices(layers)}\n"
    )
    scratch.build()
    expect(family, scratch.output("out"), expected)


def test_deepseek_counts_its_layers_without_experts(tmp_path: Path) -> None:
    family = FAMILIES["deepseek-v3"]
    family.make(tmp_path / "a", 0)
    models = {"a": family.load(tmp_path / "a")}
    layers = [("a", 0), ("a", 0), ("a", 1), ("a", 3)]
    scratch = Scratch(tmp_path)
    scratch.write(
        "mergebuild: 1\nsources: {a: ./a}\nnodes:\n  out:\n    merge_method: passthrough\n"
        f"    slices: {slices(layers)}\n"
    )
    scratch.build()
    found = expect(family, scratch.output("out"), assembled(models, "model.layers", layers, ()))
    assert found.config.first_k_dense_replace == 2
