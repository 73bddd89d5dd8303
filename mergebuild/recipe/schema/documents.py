"""Whole files in a schema: native recipes, and the documents of mergekit files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mergebuild.methods.declaration import Method
from mergebuild.recipe import mixture, names, native, node
from mergebuild.recipe.includes import KEYS, NAMESPACE
from mergebuild.recipe.references import ALIAS
from mergebuild.recipe.schema import kinds, values
from mergebuild.recipe.schema.merge import merge, reference
from mergebuild.recipe.schema.terms import (
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
from mergebuild.recipe.variables import NAME as VARIABLE

DRAFT: Final = "http://json-schema.org/draft-07/schema#"
_FOLDER: Final = r"^(?!/|~)(?!(.*/)?\.\.(/|$))[^\\]*[^\\./][^\\]*$"


def recipe_schema(methods: Mapping[str, Method]) -> dict[str, Any]:
    """The schema of native recipes that may use these methods."""
    terms = Terms(native=True)
    scalar = {"type": ["string", "number", "boolean", "null"], "not": _holding("${")}
    folder = {**TEXT, "pattern": _FOLDER}
    outputs = either(listed(TEXT), named(optional(folder), least=1))
    shapes = {
        "mergebuild": told(
            "The version of the recipe language.", {"type": "integer", "enum": [native.VERSION]}
        ),
        "name": told("What the recipe is called (default: as its file).", TEXT),
        "description": told("What it is for.", TEXT),
        "include": told(
            "Other recipes, whose nodes are called NAME.node here.",
            named(either(TEXT, _include(terms)), _whole(NAMESPACE.pattern)),
        ),
        "sources": told(
            "Aliases of checkpoints; --source NAME=PATH says where one is on a machine.",
            named(use("model"), _whole(ALIAS.pattern)),
        ),
        "vars": told(
            "Values for ${name}; --set NAME=VALUE overrides one.",
            named(either(scalar, {"type": "array", "items": scalar}), _whole(VARIABLE.pattern)),
        ),
        "nodes": told("The merges, by name.", named(use("node"), use("name"), least=1)),
        "outputs": told(
            "Nodes and the folders they are published to (default: every node that no other "
            "uses, to build/NODE).",
            terms.value(outputs),
        ),
        "seed": told("Default of the nodes' seeds.", terms.whole(0)),
    }
    found = kinds.nodes(methods, terms)
    return {
        "$schema": DRAFT,
        "title": "mergebuild recipe",
        **closed(native.KEYS, shapes, "mergebuild"),
        "anyOf": [{"required": ["nodes"]}, {"required": ["include"]}],
        "definitions": {
            **_definitions(methods, terms),
            **{f"node-{kind}": schema for kind, schema in found.items()},
            "node": kinds.chosen(found),
        },
    }


def mergekit_schema(methods: Mapping[str, Method]) -> dict[str, Any]:
    """The schema of every document of a mergekit file."""
    terms = Terms(native=False)
    return {
        "$schema": DRAFT,
        "title": "mergekit configuration",
        "type": "object",
        "if": {"required": ["experts"], "not": {"required": ["merge_method"]}},
        "then": use("moe"),
        "else": use("merge"),
        "definitions": {
            **_definitions(methods, terms),
            "merge": merge(("name", *node.MERGEKIT_KEYS), methods, terms),
            "moe": kinds.mixed(("name", *mixture.MERGEKIT_KEYS), terms),
        },
    }


def _definitions(methods: Mapping[str, Method], terms: Terms) -> dict[str, Schema]:
    found = {
        **terms.definitions(),
        "model": reference(),
        "name": {
            **_whole(names.NAME.pattern),
            "maxLength": names.LONGEST,
            "not": _holding(".."),
        },
    }
    for method in methods.values():
        found.update(values.definitions(method, terms))
        found[f"parameters-{method.name}"] = values.parameters(method, terms)
    return found


def _whole(pattern: str) -> Schema:
    """Text that a pattern fits from end to end."""
    return {"type": ["string", "number"], "pattern": f"^(?:{pattern})$"}


def _include(terms: Terms) -> Schema:
    scalar = {"type": ["string", "number", "boolean", "null"]}
    shapes = {
        "recipe": told("A path, hf://org/repo/path@rev or git+https://…@commit#path.", TEXT),
        "vars": told(
            "Values for its variables.",
            named(either(scalar, {"type": "array", "items": scalar}), _whole(VARIABLE.pattern)),
        ),
        "sources": told(
            "Models in the place of its sources, by alias or as written.", named(use("model"))
        ),
    }
    return closed(KEYS, shapes, "recipe")


def _holding(part: str) -> Schema:
    """Text with this part in it."""
    escaped = "".join(f"\\{character}" for character in part)
    return {"type": "string", "pattern": escaped}
