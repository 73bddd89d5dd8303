"""A whole recipe in one document: what it includes merged in, variables and aliases filled in,
defaults spelled out, with a comment where each part comes from.

It is a native recipe that builds the same keys. Of files it asks but whether `org/name` in a recipe
from another folder is a path there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mergebuild.errors import Location
from mergebuild.recipe.model import Application, ModelRef, Node, Recipe, Source
from mergebuild.recipe.written import (
    configuration,
    escaped,
    literal_filters,
    native_keys,
    portable,
    spelled,
    yaml_text,
)


def resolved_text(recipe: Recipe) -> str:
    """The recipe as it is understood."""
    called = _Called(recipe)
    parts = [
        _head(recipe),
        yaml_text({"mergebuild": 1, "name": escaped(recipe.name)}, inline=False),
    ]
    parts.append("nodes:\n")
    for node in recipe.nodes.values():
        if not isinstance(node.body, Application):
            parts += _node(node, recipe, called)
    outputs = {name: str(place) for name, place in recipe.outputs.items() if place is not None}
    listed: Any = outputs if len(outputs) == len(recipe.outputs) else list(recipe.outputs)
    parts.append(yaml_text({"outputs": listed}, inline=False))
    return "".join(parts)


class _Called:
    """How models are written here: sources in full, adapted nodes by what they are made of."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def __call__(self, model: ModelRef) -> Any:
        if isinstance(model, Source):
            return _spelled(model, self._recipe)
        body = self._recipe.nodes[model.name].body
        if not isinstance(body, Application):
            return model.name
        parts = [self(body.model), self(body.adapter)]
        if all(isinstance(part, str) for part in parts):
            return "+".join(parts)
        places = [part if isinstance(part, str) else part["model"] for part in parts]
        return dict(zip(("model", "lora"), places, strict=True))


def _spelled(source: Source, recipe: Recipe) -> Any:
    """A source in full; a bare word, which only mergekit files may say, as the path that it is."""
    found = spelled(_located(portable(source), recipe))
    bare = isinstance(found, str) and "/" not in found and not found.startswith(".")
    return f"./{found}" if bare else found


def _located(source: Source, recipe: Recipe) -> Source:
    """A source that looks like one on the Hub as the path that it is, if there is one."""
    lora = _located(source.lora, recipe) if source.lora is not None else None
    place = source.place
    if source.within and (recipe.directory / source.within / place).exists():
        place = place if place.startswith(("/", ".", "~")) else f"./{place}"
    return replace(source, place=place, lora=lora)


def _node(node: Node, recipe: Recipe, called: _Called) -> Iterator[str]:
    yield f"  # {_place(node.at, recipe)}\n"
    data = {**native_keys(node), **configuration(node, called)}
    if node.body is None:
        data = {**data, "keep": node.keep, "missing": node.missing, "seed": node.seed}
    data = escaped(data if recipe.native else literal_filters(data))
    text = yaml_text({node.name: data})
    yield from (f"  {line}\n" for line in text.splitlines())


def _head(recipe: Recipe) -> str:
    lines = [f"{recipe.path.name}, as it is understood: 'mergebuild show'"]
    for one in recipe.included:
        commit = f", commit {one.recipe.commit}" if one.recipe.commit else ""
        lines.append(f"{one.namespace}.* from {_one_line(one.recipe.reference)}{commit}")
    sources = (r for node in recipe.nodes.values() for r in node.references())
    for source in dict.fromkeys(s for s in sources if isinstance(s, Source) and s.alias):
        lines.append(f"{_one_line(source.alias)} is {_one_line(str(_spelled(source, recipe)))}")
    return "".join(f"# {line}\n" for line in lines)


def _place(at: Location, recipe: Recipe) -> str:
    """A place in a file, called as on any machine."""
    called = {one.recipe.origin.file: one.recipe.reference for one in recipe.included}
    file = called.get(at.file, recipe.path.name)
    return f"{_one_line(file)}:{at.line}:{at.column}"


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
