"""The JSON schema and the readers know the same language: keys, words, and what is refused."""

from __future__ import annotations

import ast
import copy
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import jsonschema
import pytest

from mergebuild.console.methods import example
from mergebuild.errors import Location, MergebuildError
from mergebuild.methods import registry
from mergebuild.methods.declare import method
from mergebuild.recipe import fields, parse_recipe
from mergebuild.recipe.context import Context
from mergebuild.recipe.origin import Fetched, Origin
from mergebuild.recipe.schema import mergekit_schema, recipe_schema
from mergebuild.recipe.starter import STARTER
from mergebuild.recipe.tree import Fields, Items, Leaf, Tree
from mergebuild.recipe.yaml_tree import parse
from tests import kit
from tests.parity.cases import CASES
from tests.test_incremental import RECIPE
from tests.test_recipe import NATIVE

METHODS = registry()
READERS = kit.ROOT / "mergebuild" / "recipe"
SCHEMAS = {True: recipe_schema(METHODS), False: mergekit_schema(METHODS)}
VALIDATORS = {native: jsonschema.Draft7Validator(schema) for native, schema in SCHEMAS.items()}

# Every key of every mapping, and every word.
MERGE = """\
merge_method: ties
base_model: {model: {path: ./base, revision: main}, lora: {path: ./adapter, revision: x}}
models:
  - model: ./a@b
    parameters:
      weight: [{filter: mlp, value: [0, 1e-3, "0.5"]}, {value: 1}]
      density: {filter: "*", value: 0.5}
      int8_mask: true
  - {model: {path: o/c, revision: 0123456}, parameters: {weight: 1}}
parameters: {normalize: 1, lambda: 0.5, rescale: inverse}
dtype: torch.bfloat16
out_dtype: float16
tokenizer_source: union
chat_template: chatml
"""
SLICED = """\
merge_method: slerp
slices:
  - sources:
      - {model: ./a, layer_range: [0, 2]}
      - {model: ./b, layer_range: [1, 3], parameters: {}}
    base_model: ./a
    parameters: {t: [0, 0.5, 1]}
    residual_weight: 1
tokenizer:
  source: ./a
  tokens:
    <a>: {source: ./a, force: true}
    <b>: {source: {kind: model_token, model: ./a, token: x}}
    <c>: {source: {model: ./a, token_id: 3}}
    <d>: {source: {kind: zero}}
    <e>:
  pad_to_multiple_of: 8
chat_template: "{{ messages }}"
"""
MODULES = """\
merge_method: linear
modules:
  default:
    models: [{model: ./a, parameters: {weight: 1}}, {model: ./b, parameters: {weight: 1}}]
    parameters: {normalize: false}
  other:
    slices: [{sources: [{model: ./a, layer_range: [0, 1], parameters: {weight: 1}}]}]
"""
MOE = """\
base_model: ./a
gate_mode: random
experts:
  - {source_model: ./a, positive_prompts: [x], negative_prompts: [y], noise_scale: 0}
  - {source_model: ./b}
shared_experts: [{source_model: ./c, residual_scale: 0.1}]
experts_per_token: 2
architecture: mixtral
dtype: float32
"""
WHOLE = """\
mergebuild: 1
name: whole
description: all there is
seed: 1
sources:
  a: ./a
  b: {model: o/b, revision: main, lora: ./lora}
vars: {density: 0.5, t: [0, 1], word: bfloat16, none: null}
include:
  short: other.yaml
  long: {recipe: other.yaml, vars: {v: [0, 1]}, sources: {s: a, o/c@v: {path: o/d}}}
nodes:
  merged:
    kind: merge
    description: text
    seed: 2
    keep: never
    missing: error
    merge_method: ties
    base_model: a
    models: [{model: b, parameters: {weight: "${t}", density: "${density}"}}]
    dtype: "${word}"
  sliced:
    merge_method: slerp
    slices:
      - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]
        base_model: a
        parameters: {t: {filter: "/mlp$/", value: 0.5}}
    tokenizer: {source: base, tokens: {<x>: {source: {model: a, token: y}}}}
  modular:
    merge_method: linear
    modules: {default: {models: [{model: a, parameters: {weight: 1}}]}}
  adapter:
    kind: lora
    description: text
    keep: cache
    model: merged
    base_model: {path: ./a, lora: {path: ./lora}}
    rank: {q_proj: 4, "*": 8}
    alpha: 16
    modules: [mlp, self_attn]
    embeddings: save
    modules_to_save: norm
    dtype: float32
    out_dtype: bfloat16
  experts:
    kind: moe
    base_model: a
    gates: ./gates.safetensors
    gate_mode: vectors
    seed: 3
    out_dtype: float16
    experts: [{source_model: a, gate: {vectors: x}}, {source_model: b, gate: random}]
    shared_experts: [{source_model: b, residual_scale: 2, gate: vectors}]
outputs: {experts: build/experts, merged: }
"""
OTHER = """\
mergebuild: 1
sources: {s: ./s}
vars: {v: 0.5}
nodes:
  n: {merge_method: slerp, base_model: s, models: [{model: o/c@v}], parameters: {t: "${v}"}}
"""
FULL = {True: [WHOLE], False: [MERGE, SLICED, MODULES, MOE]}
FULL_ONES = [(native, text) for native, texts in FULL.items() for text in texts]


def fetch(reference: str, origin: Origin, at: Location) -> Fetched:
    """Every included recipe is the same."""
    return Fetched(reference, Origin("", reference, reference), None, OTHER)


def plain(tree: Tree) -> Any:
    """The values as the readers get them."""
    match tree:
        case Leaf():
            return tree.value
        case Items():
            return [plain(item) for item in tree.items]
        case Fields():
            return {key: plain(entry.value) for key, entry in tree.entries.items()}


def documents(text: str) -> list[Any]:
    return [plain(tree) for tree in parse(text, "r.yaml", Context())]


def faults(text: str, native: bool) -> list[str]:
    """What the schema has against a text."""
    found = [e for one in documents(text) for e in VALIDATORS[native].iter_errors(one)]
    return [f"{'/'.join(map(str, error.path))}: {error.message}" for error in found]


def refused(text: str) -> bool:
    """Whether the readers refuse it."""
    try:
        parse_recipe(text, Path("r.yaml"), methods=METHODS, fetch=fetch)
    except MergebuildError:
        return True
    return False


def test_the_schemas_are_schemas() -> None:
    for schema in SCHEMAS.values():
        jsonschema.Draft7Validator.check_schema(schema)
        text = json.dumps(schema)
        for name in schema["definitions"]:
            assert f'"#/definitions/{name}"' in text, f"'{name}' is not used"


# The same keys.


def mappings(schema: Any) -> Iterator[frozenset[str]]:
    """The keys of every mapping that has no others; those of parameters are the methods'."""
    if isinstance(schema, Mapping):
        if schema.get("additionalProperties") is False:
            yield frozenset(schema["properties"])
        for key, value in schema.items():
            if not key.startswith("parameters-"):
                yield from mappings(value)
    elif isinstance(schema, list):
        for one in schema:
            yield from mappings(one)


Place = tuple[str, int]


def asked(texts: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[Place, set[frozenset[str]]]:
    """Which keys the readers allow in these texts, by the place that asks."""
    found: dict[Place, set[frozenset[str]]] = {}
    original = fields.entries

    def entries(tree: Any, what: str, ctx: Any, known: Any = None, *more: Any) -> Any:
        if known is not None:
            frame = sys._getframe(1)
            place = Path(frame.f_code.co_filename).name, frame.f_lineno
            found.setdefault(place, set()).add(frozenset(known))
        return original(tree, what, ctx, known, *more)

    with monkeypatch.context() as patch:
        patch.setattr(fields, "entries", entries)
        for text in texts:
            parse_recipe(text, Path("r.yaml"), methods=METHODS, fetch=fetch)
    return found


def places() -> set[Place]:
    """Where the readers ask for a mapping with keys that they know."""
    return {
        (file.name, call.lineno)
        for file in sorted(READERS.glob("*.py"))
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) == "fields.entries"
        and len(call.args) > 3
    }


def test_every_mapping_has_the_same_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader got a key, or a mapping with keys of its own? Give the key a shape in
    `recipe/schema/`, and put it into the texts above."""
    met: set[Place] = set()
    for native, texts in FULL.items():
        found = asked(texts, monkeypatch)
        assert set().union(*found.values()) == set(mappings(SCHEMAS[native]))
        met.update(found)
    assert met == places()


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_is_there(name: str) -> None:
    declared = METHODS[name]
    for native, schema in SCHEMAS.items():
        shape = schema["definitions"][f"parameters-{name}"]
        assert set(shape["properties"]) == set(declared.parameters) | declared.inert
        assert ("additionalProperties" in shape) == native
        for parameter in declared.parameters.values():
            assert parameter.doc in shape["properties"][parameter.name]["description"]
        (said,) = (
            one["description"]
            for one in merge_node(native)["properties"]["merge_method"]["anyOf"]
            if one.get("const") == name
        )
        assert said == declared.summary


def merge_node(native: bool) -> Any:
    return SCHEMAS[native]["definitions"]["node-merge" if native else "merge"]


def test_a_method_of_another_package_is_in_the_schema() -> None:
    from tests.test_methods_plugins import _streaming

    other = method(base="required", inputs=(1, 1), missing="single")(_streaming)
    schema = recipe_schema({**METHODS, "_streaming": other})
    assert "t" in schema["definitions"]["parameters-_streaming"]["properties"]


# What is fine.

FINE = [
    *((f"full {index}", native, text) for index, (native, text) in enumerate(FULL_ONES)),
    *((f.name, True, f.read_text(encoding="utf-8")) for f in kit.ROOT.glob("recipes/*.yaml")),
    *((case.name, False, dedent(case.config).replace("$", "./")) for case in CASES),
    *((name, True, example(METHODS[name])) for name in METHODS),
    ("starter", True, STARTER),
    ("two stages", True, NATIVE),
    ("three stages", True, RECIPE),
]


@pytest.mark.parametrize(("name", "native", "text"), FINE, ids=[one[0] for one in FINE])
def test_what_the_readers_take_the_schema_takes(name: str, native: bool, text: str) -> None:
    assert not refused(text)
    assert faults(text, native) == []


# What is wrong: a change to one of the texts above.

WRONG = {
    "version": (WHOLE, "mergebuild: 1", "mergebuild: 2"),
    "unknown key": (WHOLE, "name: whole", "nam: whole"),
    "no nodes": (WHOLE, "nodes:", "nods:"),
    "name of a node": (WHOLE, "  modular:", "  ../modular:"),
    "name with two dots": (WHOLE, "  modular:", "  a..b:"),
    "name of a source": (WHOLE, "  a: ./a", "  a+: ./a"),
    "name of a variable": (WHOLE, "none: null", "1a: 1"),
    "variable of variables": (WHOLE, "none: null", 'none: "${t}"'),
    "variable that is a mapping": (WHOLE, "none: null", "none: {a: 1}"),
    "kind": (WHOLE, "kind: lora", "kind: lara"),
    "key of another kind": (WHOLE, "    rank: {", "    merge_method: ties\n    rank: {"),
    "kind without its keys": (WHOLE, "    model: merged\n", ""),
    "rank": (WHOLE, "q_proj: 4", "q_proj: 0"),
    "alpha": (WHOLE, "alpha: 16", "alpha: 0"),
    "embeddings": (WHOLE, "embeddings: save", "embeddings: keep"),
    "gate": (WHOLE, "gate: random", "gate: {vector: x}"),
    "keep": (WHOLE, "keep: never", "keep: sometimes"),
    "missing": (WHOLE, "missing: error", "missing: ignore"),
    "seed": (WHOLE, "seed: 2", "seed: -1"),
    "output above": (WHOLE, "build/experts", "../experts"),
    "output elsewhere": (WHOLE, "build/experts", "/experts"),
    "no outputs": (WHOLE, "{experts: build/experts, merged: }", "{}"),
    "unknown parameter": (WHOLE, "density: \"${density}\"", "densty: 1"),
    "method": (MERGE, "merge_method: ties", "merge_method: tie"),
    "no method": (MERGE, "merge_method: ties\n", ""),
    "no base": (MERGE, "base_model:", "#"),
    "two bodies": (MERGE, "dtype: t", "slices: [{sources: [{model: ./a}]}]\ndtype: t"),
    "no body": (MODULES, MODULES.partition("\n")[2], ""),
    "no models": (MODULES, MODULES.partition("\n")[2], "models: []"),
    "model without model": (MERGE, "- model: ./a@b", "- modl: ./a@b"),
    "model of nothing": (MERGE, "{path: o/c, revision: 0123456}", "{revision: 0123456}"),
    "model twice": (MERGE, "{path: o/c,", "{path: o/c, model: o/c,"),
    "model that is a list": (MERGE, "{path: o/c, revision: 0123456}", "[o/c]"),
    "density": (MERGE, "value: 0.5}", "value: 1.5}"),
    "density that is text": (MERGE, "value: 0.5}", "value: half}"),
    "condition without value": (MERGE, 'filter: "*", value: 0.5', 'filter: "*"'),
    "condition among values": (MERGE, "{value: 1}]", "1]"),
    "gradient of gradients": (MERGE, "[0, 1e-3,", "[[0], 1e-3,"),
    "rescale": (MERGE, "rescale: inverse", "rescale: invers"),
    "truth": (MERGE, "normalize: 1,", "normalize: 2,"),
    "infinite": (MERGE, "lambda: 0.5", "lambda: null"),
    "dtype": (MERGE, "torch.bfloat16", "bf16"),
    "template": (MERGE, "chatml", "chatlm"),
    "two tokenizers": (MERGE, "dtype: t", "tokenizer: {source: base}\ndtype: t"),
    "native key": (MERGE, "dtype: t", "seed: 1\ndtype: t"),
    "required parameter": (NATIVE, "merge_method: dare_ties", "merge_method: slerp"),
    "too many models": (
        RECIPE,
        RECIPE,
        "mergebuild: 1\nnodes: {a: {merge_method: passthrough, models: [{model: ./a}, "
        "{model: ./b}, {model: ./c}]}}",
    ),
    "slice without sources": (SLICED, "  - sources:", "  - source:"),
    "three ends": (SLICED, "[0, 2]", "[0, 2, 4]"),
    "negative layers": (SLICED, "[0, 2]", "[-2, 0]"),
    "layers that are no numbers": (SLICED, "[0, 2]", "[a, b]"),
    "zero and a token": (SLICED, "{kind: zero}", "{kind: zero, token: x}"),
    "token and id": (SLICED, "token: x}", "token: x, token_id: 1}"),
    "token of no model": (SLICED, "model: ./a, token: x", "token: x"),
    "padding": (SLICED, "pad_to_multiple_of: 8", "pad_to_multiple_of: 0"),
    "both in a module": (MODULES, "    slices:", "    models: [{model: ./a}]\n    slices:"),
    "prompts": (MOE, "gate_mode: random", "gate_mode: hidden"),
    "expert": (MOE, "{source_model: ./b}", "{model: ./b}"),
    "key for shared experts": (MOE, "source_model: ./b", "source_model: ./b, residual_scale: 1"),
    "text": (MERGE, MERGE, "merge_method"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused_by_both(name: str) -> None:
    text, before, after = WRONG[name]
    assert text.count(before) == 1, "what is changed stands there once"
    changed = text.replace(before, after)
    assert refused(changed)
    assert faults(changed, "mergebuild" in text)


JUNK: list[Any] = [None, True, -1, 0.5, "text", "", "${t}", [], ["x"], {}, {"x": 1}]


def changes(value: Any) -> Iterator[Any]:
    """A document with one part of it taken away, or replaced by something else."""
    for path in paths(value):
        for junk in (*JUNK, changes):
            changed = copy.deepcopy(value)
            inner = changed
            for step in path[:-1]:
                inner = inner[step]
            if junk is changes:
                del inner[path[-1]]
            else:
                inner[path[-1]] = junk
            yield changed


def paths(value: Any) -> Iterator[tuple[Any, ...]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in parts if isinstance(value, dict | list) else ():
        yield (key,)
        if isinstance(part, dict | list):
            yield from ((key, *path) for path in paths(part))


@pytest.mark.parametrize(("native", "text"), FULL_ONES)
def test_the_schema_refuses_nothing_that_the_readers_take(native: bool, text: str) -> None:
    (document,) = documents(text)
    wrong = []
    for changed in changes(document):
        as_text = json.dumps(changed)
        (again,) = documents(as_text)
        if not VALIDATORS[native].is_valid(again):
            wrong.append((as_text, refused(as_text)))
    assert [as_text for as_text, by_readers in wrong if not by_readers] == []
    assert len(wrong) > 50
