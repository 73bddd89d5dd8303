"""Recipes written again: reading what was written gives the same values."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from mergebuild.methods import registry
from mergebuild.recipe import Node, Recipe, parse_recipe
from mergebuild.recipe.written import configuration, native_keys, yaml_text
from tests import kit

FORMS = {
    "models": """
        merge_method: ties
        base_model: base
        models:
          - {model: a, parameters: {weight: 0.5, density: [0.1, 0.9]}}
          - {model: b, parameters: {weight: [{filter: mlp, value: [0, 1]}, {value: 0.25}]}}
        parameters: {normalize: false, lambda: 1e-5}
        dtype: bfloat16
        out_dtype: float16
        """,
    "slices": """
        merge_method: slerp
        base_model: base
        slices:
          - sources: [{model: base, layer_range: [0, 2]}, {model: a, layer_range: [1, 3]}]
            parameters: {t: 0.25}
          - sources: [{model: b, layer_range: [2, 4]}, {model: a, layer_range: [0, 2]}]
            base_model: b
        parameters: {t: 0.5}
        """,
    "modules": """
        merge_method: linear
        parameters: {normalize: true}
        modules:
          text_decoder:
            models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 2}}]
          vision_tower:
            parameters: {normalize: false}
            slices: [{sources: [{model: a, layer_range: [0, 4], parameters: {weight: 1}}]}]
        """,
    "one module of whole models": """
        merge_method: linear
        modules: {default: {models: [{model: a, parameters: {weight: 1}}]}}
        """,
    "native keys": """
        merge_method: dare_ties
        base_model: base
        models: [{model: a, parameters: {weight: 1, density: 0.5}}]
        seed: 7
        keep: never
        missing: error
        description: "thinned: half"
        """,
    "a tokenizer": """
        merge_method: linear
        models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]
        tokenizer:
          source: union
          pad_to_multiple_of: 8
          tokens:
            <a>: {source: a, force: true}
            <b>: {source: {kind: zero}}
            <c>: {source: {kind: model_token, model: b, token_id: 3}}
            <d>: {source: {kind: model_token, model: b, token: <x>}}
        chat_template: chatml
        """,
    "an extraction": """
        kind: lora
        model: a
        base_model: base
        rank: {q_proj: 4, "*": 2}
        alpha: 8
        modules: [self_attn]
        embeddings: save
        modules_to_save: [norm]
        dtype: float16
        """,
    "a mixture": """
        kind: moe
        base_model: base
        gates: ./gates.safetensors
        architecture: mixtral
        experts: [{source_model: a, gate: random}, {source_model: b, gate: {vectors: x}}]
        shared_experts: [{source_model: a, residual_scale: 0.5}]
        experts_per_token: 1
        seed: 3
        """,
    "an adapter on a model": """
        merge_method: passthrough
        models: [{model: base+a}]
        """,
    "a tokenizer of a model": """
        merge_method: linear
        models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]
        tokenizer_source: b
        """,
}


def native(body: str) -> str:
    head = "mergebuild: 1\nsources: {base: ./base, a: ./a, b: org/b@main+org/lora}\nnodes:\n  out:"
    return f"{head}\n{body}"


def read(text: str) -> Recipe:
    return parse_recipe(text, Path("r.yaml"), methods=registry())


def again(node: Node) -> Node:
    body = yaml_text({**configuration(node), **native_keys(node)})
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    return read(native(indented)).nodes["out"]


def plain(value: Any) -> Any:
    """A value without the places in the text that its parts came from."""
    if is_dataclass(value):
        named = {f.name: getattr(value, f.name) for f in fields(value) if f.name != "at"}
        return {name: plain(part) for name, part in named.items()}
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize("form", FORMS)
def test_a_node_written_and_read_is_the_same(form: str) -> None:
    node = read(native(FORMS[form])).nodes["out"]
    assert plain(again(node)) == plain(node)


@pytest.mark.parametrize(
    "file", sorted((kit.ROOT / "recipes").glob("*.yaml")), ids=lambda f: f.stem
)
def test_nothing_is_written_that_was_not_said(file: Path) -> None:
    recipe = read(file.read_text(encoding="utf-8"))
    for node in recipe.nodes.values():
        written = {**configuration(node), **native_keys(node)}
        assert set(written) <= {
            *("merge_method", "base_model", "models", "slices", "modules"),
            *("parameters", "dtype", "description"),
        }
