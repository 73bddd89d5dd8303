"""Model references: text or mapping -> Source or NodeRef.

Owns the grammar `path_or_hub_id[@revision][+lora[@revision]]`, aliases and `--source`. Never looks
at the disk: where a text could also be the name of a folder (`./a+b`), `Source.text` keeps it, and
whoever can look decides. The mapping form is taken as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from mergebuild.errors import Location, Problem, UsageError, did_you_mean, nearest
from mergebuild.recipe import fields
from mergebuild.recipe.context import Context, shown
from mergebuild.recipe.model import Application, ModelRef, NodeRef, Source
from mergebuild.recipe.overrides import Overrides
from mergebuild.recipe.tree import Entry, Leaf, Tree

REFERENCE_KEYS: Final = ("model", "path", "revision", "lora")
PLACE_KEYS: Final = ("path", "revision")
ALIAS: Final = re.compile(r"[^.@+/~][^@+/~]*")
_MAPPING_HINT = "write {model: {path: ..., revision: ...}, lora: {path: ...}}"


@dataclass(slots=True)
class Names:
    """What a reference can mean, and which aliases and overrides have been met so far.

    `mirrors` are overrides that give way to the others, and that need not be met. `applied` are
    the references `model+adapter` in which one of the two is a node.
    """

    nodes: Collection[str] = ()
    aliases: Mapping[str, Source] = field(default_factory=dict)
    overrides: Mapping[str, str] = field(default_factory=dict)
    mirrors: Mapping[str, str] = field(default_factory=dict)
    met_aliases: set[str] = field(default_factory=set)
    met_overrides: set[str] = field(default_factory=set)
    literals: dict[str, None] = field(default_factory=dict)
    applied: dict[str, tuple[Application, Location]] = field(default_factory=dict)

    def unmatched(self) -> None:
        """Raises UsageError for overrides that replaced nothing."""
        known = [*self.aliases, *self.literals]
        missed = [key for key in self.overrides if key not in self.met_overrides]
        if missed:
            raise UsageError(
                *(
                    Problem(
                        f"--source {key}={self.overrides[key]}: the recipe has no such source",
                        hint=did_you_mean(key, known),
                    )
                    for key in missed
                )
            )


def names(nodes: Collection[str], overrides: Overrides) -> Names:
    """What a reference can mean in a recipe of these nodes, before its aliases are read."""
    return Names(nodes=dict.fromkeys(nodes), overrides=overrides.sources, mirrors=overrides.mirrors)


def resolve(tree: Tree, what: str, names: Names, ctx: Context) -> ModelRef:
    """The model that a model field names; after a mistake, a stand-in under the same text."""
    found = _read(tree, what, ctx)
    if found is None:
        return Source(f"?{tree.at}", at=tree.at)
    if found.name in names.nodes:
        return NodeRef(found.name, tree.at)
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
    if model is not None and adapter is not None:
        names.applied.setdefault(found.name, (Application(model, adapter), at))
    return NodeRef(found.name, found.at)


def _part(part: Source, role: str, names: Names, ctx: Context) -> ModelRef | None:
    if part.place not in names.nodes:
        return _known(part, role, names, ctx)
    if part.revision is not None:
        at = part.at or Location("", 1, 1)
        ctx.error(f"node {shown(part.place)} takes no revision", at, "only the Hub has revisions")
    return NodeRef(part.place, part.at)


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
        source = _read(entry.value, f"source {shown(name)}", ctx)
        if source is None:
            continue
        if not ALIAS.fullmatch(name):
            hint = "use a name without '@', '+', '/' and '~'"
            ctx.error(f"{shown(name)} is not a name for a source", entry.at, hint)
        elif name in nodes:
            ctx.error(f"source {shown(name)} has the name of a node", entry.at, "rename one")
        else:
            _check_leaf(name, source, listed, nodes, ctx)
            found[name] = _aliased(name, replace(source, alias=name), entry, names)
    return found


def _check_leaf(
    name: str, source: Source, listed: Mapping[str, Entry], nodes: Collection[str], ctx: Context
) -> None:
    for part in (source, source.lora):
        if part and part.place != name and (part.place in listed or part.place in nodes):
            at, hint = part.at or Location("", 1, 1), f"name {shown(part.place)} itself instead"
            ctx.error(f"source {shown(name)} must be a path or a Hub id, not a name", at, hint)


def _aliased(name: str, source: Source, entry: Entry, names: Names) -> Source:
    if name in names.overrides:
        names.met_overrides.add(name)
        lora = overridden(source.lora, names) if source.lora else None
        return _replacement(names.overrides[name], replace(source, lora=lora, name=name))
    if name in names.mirrors:
        lora = overridden(source.lora, names) if source.lora else None
        return _replacement(names.mirrors[name], replace(source, lora=lora, name=name))
    return replace(overridden(source, names), name=name, at=entry.value.at)


def overridden(source: Source, names: Names) -> Source:
    """A literal source with `--source`, else a mirror, applied to it and to its LoRA."""
    if source.lora is not None:
        source = replace(source, lora=overridden(source.lora, names))
    at_revision = f"{source.place}@{source.revision}" if source.revision else source.place
    spellings = dict.fromkeys((source.name, at_revision, source.place))
    for spelling in spellings:
        names.literals[spelling] = None
        if spelling in names.overrides:
            names.met_overrides.add(spelling)
            return _replacement(names.overrides[spelling], source)
    mirror = next((names.mirrors[s] for s in spellings if s in names.mirrors), None)
    return source if mirror is None else _replacement(mirror, source)


def _replacement(text: str, source: Source) -> Source:
    """`text` in the place of a source: it keeps its name, and its LoRA unless `text` has one."""
    problems = Context()
    at = source.at or Location("--source", 1, 1)
    new = split(text, at, problems)
    if new is None:
        raise UsageError(*(replace(problem, at=None, hint=None) for problem in problems.problems))
    first = source.written is None
    return replace(
        new,
        lora=new.lora or source.lora,
        name=source.name,
        written=source.place if first else source.written,
        written_revision=source.revision if first else source.written_revision,
        alias=source.alias,
    )


def _read(tree: Tree, what: str, ctx: Context) -> Source | None:
    """A reference as written, nothing resolved; its `name` is the whole text."""
    if isinstance(tree, Leaf):
        written = fields.text(tree, what, ctx)
        return None if written is None else split(written, tree.at, ctx)
    if fields.described(tree) != "a mapping":
        fields.text(tree, what, ctx)
        return None
    keys = fields.entries(tree, what, ctx, REFERENCE_KEYS)
    given = [key for key in ("model", "path") if key in keys]
    if len(given) != 1:
        ctx.error(f"{what} must have one of 'model' and 'path'", tree.at, _MAPPING_HINT)
        return None
    base = _place(keys[given[0]].value, what, ctx)
    lora = _place(keys["lora"].value, f"the LoRA of {what}", ctx) if "lora" in keys else None
    if base is None:
        return None
    if "revision" in keys:
        revision = keys["revision"]
        if base.revision is not None:
            ctx.error(f"{what} has two revisions", revision.at, "leave one of them out")
        base = replace(base, revision=fields.text(revision.value, "'revision'", ctx))
    name = _spelled(base) + (f"+{_spelled(lora)}" if lora else "")
    return replace(base, lora=lora, name=name, at=tree.at)


def _place(tree: Tree, what: str, ctx: Context) -> Source | None:
    """A path as it stands, or `{path, revision}`."""
    if isinstance(tree, Leaf):
        path, revision = fields.text(tree, what, ctx), None
    else:
        keys = fields.entries(tree, what, ctx, PLACE_KEYS)
        if "path" not in keys:
            ctx.error(f"{what} has no 'path'", tree.at, _MAPPING_HINT)
            return None
        path = fields.text(keys["path"].value, "'path'", ctx)
        pinned = keys.get("revision")
        revision = fields.text(pinned.value, "'revision'", ctx) if pinned else None
    if path is None:
        return None
    source = Source(path, revision, at=tree.at)
    return replace(source, name=_spelled(source))


def _spelled(source: Source) -> str:
    return f"{source.place}@{source.revision}" if source.revision else source.place


def split(text: str, at: Location, ctx: Context) -> Source | None:
    """The text form. In a path (`/`, `./`, `../`, `~`) an `@` belongs to the path: folders have
    no revisions."""
    parts = [_revised(part, text, at, ctx) for part in text.split("+")]
    if len(parts) > 2:
        ctx.error(f"{shown(text)} has more than one '+'", at, _MAPPING_HINT)
        return None
    model = parts[0]
    if model is None or parts[-1] is None:
        return None
    lora = parts[1] if len(parts) == 2 else None
    plain = lora is None and model.revision is None
    return replace(model, lora=lora, name=text, text="" if plain else text)


def _revised(part: str, text: str, at: Location, ctx: Context) -> Source | None:
    is_path = part.startswith(("/", "./", "../", "~"))
    place, mark, revision = (part, "", "") if is_path else part.partition("@")
    if "@" in revision:
        ctx.error(f"{shown(text)} has more than one '@'", at, _MAPPING_HINT)
        return None
    if not place.strip() or (mark and not revision):
        form = "path_or_hub_id[@revision][+lora[@revision]]"
        ctx.error(f"{shown(text)} is not a model reference", at, f"the form is {form}")
        return None
    return Source(place, revision or None, name=part, at=at)
