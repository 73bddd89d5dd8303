"""Random recipes under random edits: what is built incrementally equals a build from scratch."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import kit
from tests.builder import Scratch, computed

SOURCES = ("base", "one", "two", "three")
DTYPES = ("float32", "bfloat16", "float16")
STEPS = 5


def number(rng: random.Random) -> Any:
    """A parameter value: a scalar, a gradient, or conditions by filter."""
    scalar = round(rng.uniform(0.1, 0.9), 2)
    shape = rng.randrange(4)
    if shape == 0:
        return [round(rng.uniform(0.1, 0.9), 2) for _ in range(rng.randint(2, 4))]
    if shape == 1:
        return [{"filter": rng.choice(["mlp", "self_attn"]), "value": scalar}, {"value": 0.5}]
    return scalar


def node(rng: random.Random, models: list[str]) -> dict[str, Any]:
    """A node over models that are there already."""
    method = rng.choice(
        ["linear", "slerp", "nuslerp", "task_arithmetic", "ties", "dare_linear", "dare_ties"]
    )
    base, one, two = rng.sample(models, 3)
    inputs: list[dict[str, Any]] = [{"model": one, "parameters": {}}]
    body: dict[str, Any] = {"merge_method": method, "models": inputs, "base_model": base}
    if method == "slerp":
        body["parameters"] = {"t": number(rng)}
    else:
        inputs.append({"model": two, "parameters": {}})
        for entry in inputs:
            entry["parameters"]["weight"] = number(rng)
            if method in ("ties", "dare_linear", "dare_ties") and rng.random() < 0.7:
                entry["parameters"]["density"] = rng.choice([0.3, 0.5, 1.0])
    if method == "linear" or (method == "nuslerp" and rng.random() < 0.5):
        del body["base_model"]
    if rng.random() < 0.4:
        body["dtype"] = rng.choice(DTYPES)
    if rng.random() < 0.2:
        body["keep"] = "never"
    return body


def recipe(rng: random.Random) -> dict[str, Any]:
    nodes: dict[str, Any] = {}
    for index in range(rng.randint(2, 5)):
        nodes[f"n{index}"] = node(rng, [*SOURCES, *nodes])
    last = f"n{len(nodes) - 1}"
    nodes[last].pop("keep", None)
    return {
        "mergebuild": 1,
        "name": "random",
        "sources": {name: f"./{name}" for name in SOURCES},
        "nodes": nodes,
        "outputs": {last: "build/last"},
    }


def edit(rng: random.Random, made: dict[str, Any]) -> None:
    """One random change: of a node's body, of a number, or nothing but a description."""
    names = list(made["nodes"])
    name = rng.choice(names)
    before = [*SOURCES, *names[: names.index(name)]]
    kind = rng.randrange(3)
    if kind == 0:
        made["nodes"][name] = node(rng, before)
        if name == names[-1]:
            made["nodes"][name].pop("keep", None)
    elif kind == 1 and "weight" in made["nodes"][name]["models"][0]["parameters"]:
        made["nodes"][name]["models"][0]["parameters"]["weight"] = number(rng)
    else:
        made["nodes"][name]["description"] = f"edit {rng.random()}"


def place(folder: Path, origin: Path) -> Scratch:
    folder.mkdir()
    for name in SOURCES:
        (folder / name).symlink_to(origin / name)
    return Scratch(folder)


@pytest.mark.parametrize("seed", range(8))
def test_incremental_equals_from_scratch(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    origin = tmp_path / "origin"
    kit.llama(origin / "base", layers=2, hidden=8, vocab=24, intermediate=8, heads=2)
    for index, name in enumerate(SOURCES[1:], start=1):
        kit.llama(origin / name, layers=2, hidden=8, vocab=24, intermediate=8, heads=2,
                  near=origin / "base", seed=index)  # fmt: skip
    kept = place(tmp_path / "kept", origin)
    made = recipe(rng)
    for step in range(STEPS):
        text = yaml.safe_dump(made, sort_keys=False)
        kept.write(text)
        kept.build(settings=None)
        fresh = place(tmp_path / f"fresh{step}", origin)
        fresh.write(text)
        fresh.build()
        (last,) = made["outputs"]
        ours, theirs = kit.read(kept.output(last)), kit.read(fresh.output(last))
        assert list(ours) == list(theirs)
        different = [name for name in ours if not ours[name].equal(theirs[name])]
        assert not different, f"step {step}: {different}\n{text}"
        plans = kept.plan().nodes, fresh.plan().nodes
        assert {n: p.key for n, p in plans[0].items()} == {n: p.key for n, p in plans[1].items()}
        assert computed(kept.build()) == []
        edit(rng, made)


def sliced(rng: random.Random) -> dict[str, Any]:
    """A node of layers in any order, of the same two sources or others."""
    slices = []
    for _ in range(rng.randint(1, 2)):
        first = rng.randrange(2)
        layers = [first, rng.randint(first + 1, 2)]
        pair = rng.choice([SOURCES[2:], rng.sample(SOURCES, 2)])
        slices.append({"sources": [{"model": name, "layer_range": layers} for name in pair]})
    return {"merge_method": "linear", "parameters": {"weight": number(rng)}, "slices": slices}


@pytest.mark.parametrize("seed", range(4))
def test_nodes_planned_together_are_as_each_planned_alone(tmp_path: Path, seed: int) -> None:
    """What nodes share while they are planned says the same of each of them."""
    rng = random.Random(seed)
    size: dict[str, Any] = {"layers": 2, "hidden": 8, "vocab": 24, "intermediate": 8, "heads": 2}
    for name, dtype in zip(SOURCES, ("bfloat16", "float32", "bfloat16", "bfloat16"), strict=True):
        kit.llama(tmp_path / name, dtype=dtype, tied=name == "three", **size)
    nodes = {f"n{i}": rng.choice([node(rng, [*SOURCES]), sliced(rng)]) for i in range(12)}
    made = {
        "mergebuild": 1,
        "name": "random",
        "sources": {name: f"./{name}" for name in SOURCES},
        "nodes": nodes,
        "outputs": {name: f"build/{name}" for name in nodes},
    }
    scratch = Scratch(tmp_path)
    scratch.write(yaml.safe_dump(made, sort_keys=False))
    together = scratch.plan().nodes
    for name in nodes:
        (alone,) = scratch.plan(select=[name]).nodes.values()
        ours = together[name]
        assert (ours.key, ours.notes, ours.shards) == (alone.key, alone.notes, alone.shards)
        assert list(ours.expressions.items()) == list(alone.expressions.items())
