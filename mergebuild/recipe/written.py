"""What a recipe says, as plain data again: the inverse of reading it.

A node becomes the mergekit configuration that means the same, its keys in the usual order, only
what is not at its default. How models are called is the caller's. Must not know files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeAlias

import yaml

from mergebuild.recipe.filters import is_regex
from mergebuild.recipe.model import (
    Application,
    Body,
    Expert,
    Extraction,
    Input,
    Mixture,
    ModelRef,
    Module,
    Node,
    Parameters,
    Slice,
    Source,
    Tokenizer,
    TokenRule,
    Value,
)
from mergebuild.recipe.spelling import from_root

Spell: TypeAlias = Callable[[ModelRef], Any]
"""How a model is written: text, or a mapping where text cannot say it."""

WIDTH: Final = 96


def configuration(node: Node, spell: Spell = str) -> dict[str, Any]:
    """The mergekit configuration of a node, without the keys that only native recipes have, or
    what a node of another kind says."""
    if node.body is not None:
        return _kind(node, node.body, spell)
    return _without_empty(
        {
            "merge_method": node.method,
            "base_model": spell(base) if (base := _base(node)) is not None else None,
            **_body(node.modules, spell),
            "parameters": parameters(node.parameters),
            "dtype": node.dtype,
            "out_dtype": node.out_dtype,
            **(_tokenizer(node.tokenizer, spell) if node.tokenizer is not None else {}),
            "chat_template": node.chat_template,
        }
    )


def _base(node: Node) -> ModelRef | None:
    """The base, also one whose rows go first, though the method merges it as any other model."""
    listed = [entry.model for m in node.modules for part in m.slices for entry in part.inputs]
    first = node.tokenizer.base if node.tokenizer is not None else None
    return node.base or (first if first in listed else None)


def native_keys(node: Node) -> dict[str, Any]:
    """The keys of a node that only native recipes have, where they are not at their defaults."""
    keys = {
        "description": node.description,
        "seed": node.seed,
        "keep": node.keep if node.keep != "cache" else None,
        "missing": node.missing if node.missing != "copy" else None,
    }
    return _without_empty(keys)


def parameters(settings: Parameters) -> dict[str, Any]:
    """Parameters of one level."""
    found: dict[str, Any] = {}
    for name, setting in settings.items():
        rows = [(c.filter, _plain(c.value)) for c in setting.conditions]
        if len(rows) == 1 and rows[0][0] is None:
            found[name] = rows[0][1]
        elif rows:
            found[name] = [
                {**({"filter": pattern} if pattern is not None else {}), "value": value}
                for pattern, value in rows
            ]
    return found


def yaml_text(data: Mapping[str, Any], *, inline: bool = True) -> str:
    """A document: keys in their order, the innermost lists and mappings on one line if `inline`."""
    style = None if inline else False
    written: str = yaml.safe_dump(
        dict(data), sort_keys=False, default_flow_style=style, width=WIDTH, allow_unicode=True
    )
    return written


def _without_empty(keys: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if value not in (None, {}, 0)}


def _plain(value: Value) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _body(modules: tuple[Module, ...], spell: Spell) -> dict[str, Any]:
    """`models`, `slices` or `modules`, the shortest that says it."""
    if len(modules) == 1 and not modules[0].parameters:
        if modules[0].name is None:
            return {"models": _models(modules[0].slices[0], spell)}
        if modules[0].name == "default" and not _is_whole(modules[0]):
            return {"slices": [_slice(part, spell) for part in modules[0].slices]}
    return {"modules": {str(module.name): _module(module, spell) for module in modules}}


def _kind(node: Node, body: Body, spell: Spell) -> dict[str, Any]:
    base = spell(node.base) if node.base is not None else None
    ends = {"dtype": node.dtype, "out_dtype": node.out_dtype}
    match body:
        case Extraction():
            ranks = {pattern or "*": rank for pattern, rank in body.ranks}
            said = {
                "kind": "lora",
                "model": spell(body.model),
                "base_model": base,
                "rank": ranks["*"] if list(ranks) == ["*"] else ranks,
                "alpha": body.alpha,
                "modules": list(body.modules) or None,
                "embeddings": body.embeddings,
                "modules_to_save": list(body.saved) or None,
            }
        case Mixture():
            said = {
                "kind": "moe",
                "base_model": base,
                "architecture": body.architecture,
                "experts": [_expert(expert, spell) for expert in body.experts],
                "shared_experts": [_expert(expert, spell) for expert in body.shared] or None,
                "experts_per_token": body.per_token,
                "gates": spell(body.gates) if body.gates is not None else None,
            }
        case Application():
            said = {"model": spell(body.model), "lora": spell(body.adapter)}
    return _without_empty({**said, **ends})


def _expert(expert: Expert, spell: Spell) -> dict[str, Any]:
    return {
        "source_model": spell(expert.model),
        "gate": {"vectors": expert.gate} if expert.gate is not None else "random",
        **({"residual_scale": expert.scale} if expert.scale != 1.0 else {}),
    }


def _module(module: Module, spell: Spell) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if module.parameters:
        body["parameters"] = parameters(module.parameters)
    if _is_whole(module):
        return {**body, "models": _models(module.slices[0], spell)}
    return {**body, "slices": [_slice(part, spell) for part in module.slices]}


def _is_whole(module: Module) -> bool:
    """Whether a module is one slice over all layers, which `models` can say."""
    if len(module.slices) != 1 or module.slices[0].base or module.slices[0].parameters:
        return False
    return all(entry.layer_range is None for entry in module.slices[0].inputs)


def _models(part: Slice, spell: Spell) -> list[dict[str, Any]]:
    return [_input(entry, spell) for entry in part.inputs]


def _slice(part: Slice, spell: Spell) -> dict[str, Any]:
    return _without_empty(
        {
            "sources": [_input(entry, spell) for entry in part.inputs],
            "base_model": spell(part.base) if part.base is not None else None,
            "parameters": parameters(part.parameters),
        }
    )


def _input(entry: Input, spell: Spell) -> dict[str, Any]:
    return _without_empty(
        {
            "model": spell(entry.model),
            "layer_range": list(entry.layer_range) if entry.layer_range is not None else None,
            "parameters": parameters(entry.parameters),
        }
    )


def _tokenizer(said: Tokenizer, spell: Spell) -> dict[str, Any]:
    source = said.source
    origin = source if source is None or isinstance(source, str) else spell(source)
    if origin is not None and not said.tokens and said.pad_to_multiple_of is None:
        return {"tokenizer_source": origin}
    tokens = {token: _token(rule, spell) for token, rule in said.tokens.items()}
    padded = said.pad_to_multiple_of
    keys = {"source": origin, "tokens": tokens, "pad_to_multiple_of": padded}
    return {"tokenizer": _without_empty(keys)}


def _token(rule: TokenRule, spell: Spell) -> dict[str, Any]:
    source: Any = None
    if rule.zero:
        source = {"kind": "zero"}
    elif rule.model is not None and rule.row is not None:
        row = "token_id" if isinstance(rule.row, int) else "token"
        source = {"kind": "model_token", "model": spell(rule.model), row: rule.row}
    elif rule.model is not None:
        source = spell(rule.model)
    keys = {"source": source, "force": True if rule.force else None}
    return {key: value for key, value in keys.items() if value is not None}


def spelled(source: Source) -> str | dict[str, Any]:
    """A source as `place[@revision][+lora[@revision]]`, or as a mapping where text would be read
    as something else."""
    parts = [_moved(source), *([_moved(source.lora)] if source.lora is not None else [])]
    if any(mark in part.place for part in parts for mark in "@+") or any(
        part.revision and part.place.startswith(("/", ".", "~")) for part in parts
    ):
        said = [_without_empty({"path": p.place, "revision": p.revision}) for p in parts]
        return dict(zip(("model", "lora"), said, strict=False))
    return "+".join(f"{p.place}@{p.revision}" if p.revision else p.place for p in parts)


def literal_filters(data: Any) -> Any:
    """In mergekit a filter is a part of a name; one that a native recipe would read as a pattern
    becomes a regular expression that means the same."""
    if isinstance(data, list):
        return [literal_filters(item) for item in data]
    if not isinstance(data, dict):
        return data
    found = {key: literal_filters(value) for key, value in data.items()}
    pattern = data.get("filter")
    if (
        isinstance(pattern, str)
        and "value" in data
        and pattern != "*"
        and (is_regex(pattern) or "*" in pattern)
    ):
        found["filter"] = f"/{re.escape(pattern)}/"
    return found


def escaped(data: Any) -> Any:
    """Text in which nothing is taken for a variable."""
    if isinstance(data, dict):
        return {key: escaped(value) for key, value in data.items()}
    if isinstance(data, list):
        return [escaped(item) for item in data]
    return data.replace("${", "$${") if isinstance(data, str) else data


def _moved(source: Source) -> Source:
    """A source of an included recipe as the recipe that everything began with would write it."""
    if not source.within:
        return source
    return replace(source, place=from_root(source.within, source.place), within="")


def portable(source: Source) -> Source:
    """A source before any override."""
    lora = portable(source.lora) if source.lora is not None else None
    if source.written is None:
        return replace(source, lora=lora)
    return Source(source.written, source.written_revision, lora)
