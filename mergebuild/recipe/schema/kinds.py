"""Nodes of the other kinds in a schema, and the choice among all kinds.

Owns what an editor says of the keys that `extraction` and `mixture` read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from mergebuild.methods.declaration import Method
from mergebuild.recipe import extraction, mixture
from mergebuild.recipe.kinds import KEYS
from mergebuild.recipe.schema.merge import common, merge
from mergebuild.recipe.schema.terms import (
    ANYTHING,
    TEXT,
    Schema,
    Terms,
    closed,
    either,
    listed,
    named,
    optional,
    told,
    use,
)

_KINDS: Final = "A merge (the default), an adapter, or a mixture of experts."


def nodes(methods: Mapping[str, Method], terms: Terms) -> dict[str, Schema]:
    """The kinds of nodes of a native recipe by name. Raises KeyError for one not known here."""
    made = {
        "merge": merge(KEYS["merge"], methods, terms),
        "lora": _lora(KEYS["lora"], terms),
        "moe": mixed(KEYS["moe"], terms),
    }
    found = {}
    for kind in KEYS:
        said = optional(terms.choice(list(KEYS))) if kind == "merge" else {"enum": [kind]}
        made[kind]["properties"]["kind"] = told(_KINDS, said)
        found[kind] = made[kind]
    return found


def chosen(kinds: Iterable[str]) -> Schema:
    """A node: of the kind that it says, else a merge."""
    found = use("node-merge")
    for kind in kinds:
        if kind != "merge":
            says = {"properties": {"kind": {"const": kind}}, "required": ["kind"]}
            found = {"if": says, "then": use(f"node-{kind}"), "else": found}
    return {"type": "object", **found} if "$ref" not in found else found


def _lora(keys: Iterable[str], terms: Terms) -> Schema:
    rank = terms.whole(1)
    filters = either(TEXT, listed(TEXT))
    shapes = {
        **common(terms),
        "kind": ANYTHING,
        "model": told("The finetune that the adapter is to stand for.", use("model")),
        "rank": told("A rank, or one for each of PEFT's patterns of modules.",
                     either(rank, named(rank, least=1))),
        "alpha": told("The scale becomes alpha / rank (default: 1).",
                      terms.number(exclusiveMinimum=0)),
        "modules": told("Filters of the matrices that get factors (default: all).", filters),
        "embeddings": told("Embeddings get factors, are kept whole, or are left out.",
                           terms.choice(extraction.EMBEDDINGS)),
        "modules_to_save": told("Filters of the modules that are kept whole.", filters),
    }  # fmt: skip
    return closed(keys, shapes, "model", "base_model", "rank")


def mixed(keys: Iterable[str], terms: Terms) -> Schema:
    """A node of kind `moe`, or with the key `name` mergekit-moe's file."""
    gate = either(
        terms.choice(mixture.GATES), closed(mixture.GATE_KEYS, {"vectors": TEXT}, "vectors")
    )
    expert = {
        "source_model": told("Where the expert's feed-forward layers are from.", use("model")),
        "positive_prompts": told("Has no effect: no prompt is run.", ANYTHING),
        "negative_prompts": told("Has no effect: no prompt is run.", ANYTHING),
        "noise_scale": told("Is not supported.", {"const": 0}),
        "residual_scale": told("Scales what a shared expert adds.", {"type": "number"}),
        "gate": told("random, vectors, or the name of its vectors in the file of gates.", gate),
    }
    one, shared = (
        closed(mixture.expert_keys(is_shared, terms.native), expert, "source_model")
        for is_shared in (False, True)
    )
    shapes = {
        **common(terms),
        "kind": ANYTHING,
        "name": told("What other documents call it; the output goes without.", use("name")),
        "experts": told("The models that experts are made of.", listed(one)),
        "shared_experts": told("Experts that see every token.", listed(shared)),
        "gate_mode": told("How gates are made that say nothing else.",
                          terms.choice(mixture.GATES)),
        "experts_per_token": told("How many experts a token goes to.", terms.whole(1)),
        "architecture": told("Default: what the tensors' names suggest.",
                             terms.choice(mixture.ARCHITECTURES)),
        "gates": told("A safetensors file of gate vectors.", use("model")),
    }  # fmt: skip
    needed = ("base_model", "experts") if terms.native else ("base_model", "experts", "gate_mode")
    return closed(keys, shapes, *needed)
