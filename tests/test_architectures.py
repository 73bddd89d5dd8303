"""Real architectures: what is merged or stacked loads in transformers as it is, and says what the
same models say that were merged, or put together, in memory."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import pytest
import torch
from torch import nn

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


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scratch]:
    """Of every family two checkpoints, and the recipe about them built."""
    found = {}
    for name, family in FAMILIES.items():
        root = tmp_path_factory.mktemp("zoo")
        for seed, model in enumerate("ab"):
            family.make(root / model, seed)
        found[name] = Scratch(root)
        found[name].write(recipe(family))
        found[name].build()
    return found


def state(model: Any) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = model.state_dict()
    return tensors


def put(model: nn.Module, path: str, module: Any) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def assembled(models: dict[str, Any], path: str, layers: Sequence[tuple[str, int]]) -> Any:
    """The first model with these layers in its stack at `path`, put together in memory."""
    model = copy.deepcopy(models[layers[0][0]])
    stack = nn.ModuleList(copy.deepcopy(models[m].get_submodule(f"{path}.{i}")) for m, i in layers)
    for place, layer in enumerate(stack):
        for module in layer.modules():
            for key in {"layer_idx", "layer_id"} & vars(module).keys():
                setattr(module, key, place)
    put(model, path, stack)
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


@pytest.mark.parametrize("name", FAMILIES)
def test_merged(name: str, built: dict[str, Scratch]) -> None:
    family, scratch = FAMILIES[name], built[name]
    a, b = (family.load(scratch.root / model) for model in "ab")
    merged = family.load(scratch.output("merged"))
    with torch.no_grad():
        once = {tensor.data_ptr(): key for key, tensor in state(a).items()}
        for key in once.values():
            if state(a)[key].is_floating_point():
                state(a)[key].mul_(0.25).add_(state(b)[key], alpha=0.75)
    torch.testing.assert_close(family.ask(merged), family.ask(a), rtol=1e-4, atol=1e-5)
    assert merged.config.to_dict() == {**a.config.to_dict(), **_places(merged)}
    assert scratch.plan().nodes["merged"].notes == ()


def _places(model: Any) -> dict[str, Any]:
    return {"_name_or_path": model.config.to_dict().get("_name_or_path")}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("node", ["deeper", "shallower"])
def test_stacked(name: str, node: str, built: dict[str, Scratch]) -> None:
    layers = DEEPER if node == "deeper" else SHALLOWER
    family, scratch = FAMILIES[name], built[name]
    models = {model: family.load(scratch.root / model) for model in "ab"}
    path = next(iter(family.layers.values()))
    expected = assembled(models, path, layers)
    for after in family.after:
        put(expected, after, attrgetter(after)(models["b"]))
    told(expected, layers, 4)
    stacked = family.load(scratch.output(node))
    assert len(stacked.get_submodule(path)) == len(layers)
    torch.testing.assert_close(family.ask(stacked), family.ask(expected), rtol=1e-4, atol=1e-5)


PAIRS = [name for name, family in FAMILIES.items() if len(family.layers) > 1]


@pytest.mark.parametrize("name", PAIRS)
def test_the_other_stack_is_stacked(name: str, built: dict[str, Scratch]) -> None:
    family, scratch = FAMILIES[name], built[name]
    models = {model: family.load(scratch.root / model) for model in "ab"}
    main, path = family.layers.values()
    expected = assembled(models, path, TOWER)
    for behind in family.behind:
        put(expected, behind, attrgetter(behind)(models["b"]))
    told(expected, TOWER, 3)
    for module in expected.modules():
        if hasattr(module, "deepstack_visual_indexes"):
            module.deepstack_visual_indexes = [0, 3]
    stacked = family.load(scratch.output("tower"))
    assert [len(stacked.get_submodule(stack)) for stack in (main, path)] == [4, 4]
    torch.testing.assert_close(family.ask(stacked), family.ask(expected), rtol=1e-4, atol=1e-5)
