"""A mergekit configuration in a schema, which is a node of kind `merge`, and references to models.

Owns what an editor says of the keys that `node`, `tokenizer` and `references` read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from mergebuild.methods.declaration import REQUIRED, Method, Scope
from mergebuild.recipe import node, settings, tokenizer
from mergebuild.recipe.schema.terms import (
    ANYTHING,
    TEXT,
    Schema,
    Terms,
    closed,
    either,
    given,
    listed,
    named,
    one_of,
    told,
    use,
)
from mergebuild.recipe.spelling import PLACE_KEYS, REFERENCE_KEYS

_SETTINGS: Final = "Parameters of the method"


def reference() -> Schema:
    """A model: a node, an alias, a path or a Hub id, with revision and LoRA if it has them."""
    place = either(TEXT, closed(PLACE_KEYS, {"path": TEXT, "revision": TEXT}, "path"))
    shapes = {
        "model": told("Path or Hub id.", place),
        "path": told("Path or Hub id.", place),
        "revision": told("Branch, tag or commit on the Hub.", TEXT),
        "lora": told("A LoRA adapter that is put on the model.", place),
    }
    mapping = {**closed(REFERENCE_KEYS, shapes), **one_of("model", "path")}
    said = "A node, a source, a path or a Hub id; model@revision, model+adapter."
    return told(said, either(TEXT, mapping))


def common(terms: Terms) -> dict[str, Schema]:
    """What the keys mean that more than one kind of node has."""
    dtype = terms.choice([*settings.DTYPES, *(f"torch.{name}" for name in settings.DTYPES)])
    return {
        "base_model": told("The base; its config and side files are the output's.", use("model")),
        "dtype": told("What is written; arithmetic is float32 whatever it says.", dtype),
        "out_dtype": told("What is written, over dtype.", dtype),
        "description": told("Goes to the model card, changes no key.", TEXT),
        "seed": told("For what is drawn at random (default: the recipe's).", terms.whole(0)),
        "keep": told(
            "Whether the checkpoint is stored (cache, the default) or exists in flight only.",
            terms.choice(settings.KEEP),
        ),
    }


def merge(keys: Iterable[str], methods: Mapping[str, Method], terms: Terms) -> Schema:
    """A mapping with these keys, and what each method wants of them."""
    shapes = {
        **common(terms),
        **_bodies(terms),
        "merge_method": told("How the models are merged.", _method(methods, terms)),
        "parameters": told(f"{_SETTINGS}, for all models and layers.", {"type": "object"}),
        "tokenizer_source": told("Whose tokenizer the output gets.", _source()),
        "tokenizer": told("The output's tokenizer, in full.", _tokenizer(terms)),
        "chat_template": told(
            "auto, the name of a built-in one, or Jinja.",
            either({"enum": list(tokenizer.TEMPLATES)}, {"type": "string", "pattern": r"\{"}),
        ),
        "missing": told(
            "A tensor that only some inputs have: merged from those or copied, or refused.",
            terms.choice(node.MISSING),
        ),
        "name": told("What other documents call it; the output goes without.", use("name")),
        "kind": told("A merge, unless another kind is said.", {"enum": ["merge"]}),
    }
    return {
        **closed(keys, shapes, "merge_method"),
        "allOf": [
            one_of(*node.BODIES),
            {"not": given("tokenizer", "tokenizer_source")},
            *(_wants(method) for method in methods.values()),
        ],
    }


def _method(methods: Mapping[str, Method], terms: Terms) -> Schema:
    return terms.value(*(told(m.summary, {"const": m.name}) for m in methods.values()))


def _bodies(terms: Terms) -> dict[str, Schema]:
    parameters = told(f"{_SETTINGS}, here.", {"type": "object"})
    layers = terms.value({"type": "integer", "minimum": 0})
    span = terms.value({"type": "array", "items": layers, "minItems": 2, "maxItems": 2})
    shapes = {
        "model": use("model"),
        "base_model": told("The base of this slice.", use("model")),
        "parameters": parameters,
        "layer_range": told("The layers [first, end); [0, 16] are 0 to 15.", span),
        "residual_weight": told("Has no effect.", ANYTHING),
    }
    source = closed(node.SOURCE_KEYS, shapes, "model")
    shapes["sources"] = told("The models that are merged, layer by layer.", listed(source))
    models = told("The models, whole.", listed(closed(node.MODEL_KEYS, shapes, "model")))
    part = closed(node.SLICE_KEYS, shapes, "sources")
    slices = told("Runs of layers, stacked in order.", listed(part))
    within = {"models": models, "slices": slices, "parameters": parameters}
    module = {**closed(node.MODULE_KEYS, within), **one_of("models", "slices")}
    modules = told("Layer stacks by name: default, a prefix or a role.", named(module, least=1))
    return {"models": models, "slices": slices, "modules": modules}


def _wants(method: Method) -> Schema:
    """If the method is this one: its parameters at every level, its base, how many models."""
    here = {"parameters": use(f"parameters-{method.name}")}
    low, high = method.inputs
    count = {"maxItems": high + (method.base != "ignored")} if high is not None else {}
    models = {"items": {"properties": here}, "minItems": max(1, low), **count}
    sources = {"sources": {"items": {"properties": here}, **count}}
    slices = {"items": {"properties": {**here, **sources}}}
    module = {"properties": {**here, "models": models, "slices": slices}}
    every = {
        **here,
        "models": models,
        "slices": slices,
        "modules": {"additionalProperties": module},
    }
    wants: list[Schema] = []
    if method.base == "required":
        wants.append(given("base_model"))
    if needed := [
        name
        for name, one in method.parameters.items()
        if one.default is REQUIRED and one.scope is Scope.SHARED
    ]:
        inside = {"parameters": {"type": "object", "required": needed}}
        wants.append({"required": ["parameters"], "properties": inside})
    then: Schema = {"properties": every}
    if wants:
        then["allOf"] = [{"if": given("models"), "then": {"allOf": wants}}]
    chosen = {"properties": {"merge_method": {"const": method.name}}, "required": ["merge_method"]}
    return {"if": chosen, "then": then}


def _source() -> Schema:
    words = told("The base's, or all tokens of all models.", {"enum": list(tokenizer.WORDS)})
    return either(words, use("model"))


def _tokenizer(terms: Terms) -> Schema:
    row = {
        "kind": told("Another token's row, or zeros.", terms.choice(tokenizer.DONORS)),
        "model": use("model"),
        "token": told("The row of this token of the model.", TEXT),
        "token_id": told("The row with this number of the model.", terms.whole(0)),
    }
    zero = {"properties": {"kind": {"const": "zero"}}, "required": ["kind"]}
    others = ("model", "token", "token_id")
    taken = {"allOf": [given("model"), one_of("token", "token_id")]}
    donor: Schema = {
        **closed(tokenizer.DONOR_KEYS, row),
        "if": zero,
        "then": {"not": {"anyOf": [given(key) for key in others]}},
        "else": taken,
    }
    rule = {
        "source": told("Where its rows come from in models that lack it.",
                       either(use("model"), donor)),
        "force": told("Every model uses that row, also one that has the token.", terms.truth()),
    }  # fmt: skip
    tokens = named(either(closed(tokenizer.RULE_KEYS, rule), {"type": "null"}))
    shapes = {
        "source": told("Whose tokens there are.", _source()),
        "tokens": told("Rows of single tokens.", tokens),
        "pad_to_multiple_of": told("Rows are added up to a multiple of this.", terms.whole(1)),
    }
    return closed(tokenizer.KEYS, shapes)
