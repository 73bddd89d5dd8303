"""Model references: text or mapping -> Source or NodeRef, with the aliases of a recipe."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from mergebuild.errors import Location, nearest
from mergebuild.recipe import fields
from mergebuild.recipe.context import Context, shown
from mergebuild.recipe.meanings import Names, aliased, overridden
from mergebuild.recipe.model import Application, ModelRef, NodeRef, Source
from mergebuild.recipe.spelling import read
from mergebuild.recipe.tree import Entry, Tree

ALIAS: Final = re.compile(r"[^.@+/~][^@+/~]*")


def resolve(tree: Tree, what: str, names: Names, ctx: Context) -> ModelRef:
    """The model that a model field names; after a mistake, a stand-in under the same text."""
    found = read(tree, what, ctx)
    if found is None:
        return Source(f"?{tree.at}", at=tree.at)
    if found.name in names.nodes:
        return names.node(found.name, tree.at)
    if found.lora is None:
        return _known(found, "a model", names, ctx) or found
    if found.name in names.overrides or found.name in names.mirrors:
        return overridden(replace(found, lora=None), names)
    if found.place in names.nodes or found.lora.place in names.nodes:
        return _applied(found, names, ctx)
    model = _known(replace(found, lora=None), "a model", names, ctx)
    lora = _known(found.lora, "a LoRA", names, ctx)
    if model is None or lora is None:
        return found
    if model.lora is not None or lora.lora is not None:
        ctx.error(f"{shown(found.name)} applies more than one LoRA", tree.at)
    literal = (model.place, lora.place) == (found.place, found.lora.place)
    text = found.text if literal else ""
    return replace(model, lora=lora, name=found.name, text=text)


def _applied(found: Source, names: Names, ctx: Context) -> NodeRef:
    """A LoRA on a model, at least one of them a node: a node of its own, under the whole text."""
    assert found.lora is not None
    at = found.at or Location("", 1, 1)
    model = _part(replace(found, lora=None), "a model", names, ctx)
    adapter = _part(found.lora, "a LoRA", names, ctx)
    for part in (model, adapter):
        if isinstance(part, Source) and part.lora is not None:
            ctx.error(f"{shown(found.name)} applies more than one LoRA", at)
    if isinstance(adapter, Source):
        adapter = replace(adapter, adapter=True)
    name = names.prefix + "+".join((found.place, names.prefix + found.name.partition("+")[2]))
    if not names.prefix:
        name = found.name
    if model is not None and adapter is not None:
        names.applied.setdefault(name, (Application(model, adapter), at))
    return NodeRef(name, found.at)


def _part(part: Source, role: str, names: Names, ctx: Context) -> ModelRef | None:
    if part.place not in names.nodes:
        return _known(part, role, names, ctx)
    if part.revision is not None:
        at = part.at or Location("", 1, 1)
        ctx.error(f"node {shown(part.place)} takes no revision", at, "only the Hub has revisions")
    return names.node(part.place, part.at)


def _known(part: Source, role: str, names: Names, ctx: Context) -> Source | None:
    """One part of a reference as alias or as literal, overridden if asked for."""
    at = part.at or Location("", 1, 1)
    if part.place in names.nodes:
        ctx.error(f"node {shown(part.place)} takes no revision", at, "only the Hub has revisions")
        return None
    if alias := names.aliases.get(part.place):
        names.met_aliases.add(part.place)
        if part.revision is None:
            return replace(alias, at=at)
        if alias.revision is None:
            return replace(alias, revision=part.revision, name=part.name, at=at)
        ctx.error(f"source {shown(part.place)} already has a revision", at, "leave one of them out")
        return None
    if _is_bare(part.place):
        _bare(part, role, names, ctx)
    return overridden(part, names)


def _is_bare(place: str) -> bool:
    return "/" not in place and not place.startswith((".", "~"))


def _bare(part: Source, role: str, names: Names, ctx: Context) -> None:
    """A word: in a native recipe most likely a slip, in a mergekit file perhaps a folder."""
    at = part.at or Location("", 1, 1)
    known = [*names.nodes, *names.aliases]
    near = nearest(part.place, known)
    folder = f"for a folder write {shown('./' + part.place)}"
    hint = f"did you mean '{near}'?" if near else f"{folder}, or name it under 'sources:'"
    if ctx.native:
        kind = role.removeprefix("a ")
        ctx.error(f"{kind} {shown(part.place)} is neither a node, a source nor a path", at, hint)
    elif near:
        ctx.warn(f"model {shown(part.place)} is taken for a folder or Hub id", at, hint)


def aliases(tree: Tree, nodes: Collection[str], names: Names, ctx: Context) -> dict[str, Source]:
    """The recipe's `sources`, `--source` applied."""
    found: dict[str, Source] = {}
    listed = fields.entries(tree, "'sources'", ctx)
    for name, entry in listed.items():
        source = read(entry.value, f"source {shown(name)}", ctx)
        if source is None:
            continue
        if not ALIAS.fullmatch(name):
            hint = "use a name without '@', '+', '/' and '~'"
            ctx.error(f"{shown(name)} is not a name for a source", entry.at, hint)
        elif name in nodes:
            ctx.error(f"source {shown(name)} has the name of a node", entry.at, "rename one")
        elif isinstance(names.given.get(name), NodeRef):
            names.met_given.add(name)
        else:
            _check_leaf(name, source, listed, nodes, ctx)
            found[name] = aliased(name, source, names)
    return found


def _check_leaf(
    name: str, source: Source, listed: Mapping[str, Entry], nodes: Collection[str], ctx: Context
) -> None:
    for part in (source, source.lora):
        if part and part.place != name and (part.place in listed or part.place in nodes):
            at, hint = part.at or Location("", 1, 1), f"name {shown(part.place)} itself instead"
            ctx.error(f"source {shown(name)} must be a path or a Hub id, not a name", at, hint)
