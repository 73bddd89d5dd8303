"""`include:` of a native recipe: namespaces, references, and what is said over included recipes.

    include:
      team: ./team.yaml
      other: {recipe: "git+https://host/x.git@<commit>#merge.yaml", vars: {density: 0.5},
              sources: {base: mistral}}

Must not know how recipes are fetched, nor what stands in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from mergebuild.errors import Location, did_you_mean
from mergebuild.recipe import fields
from mergebuild.recipe.context import Context, shown
from mergebuild.recipe.frame import Frame, Part
from mergebuild.recipe.meanings import Names
from mergebuild.recipe.model import ModelRef
from mergebuild.recipe.origin import Fetched
from mergebuild.recipe.references import resolve
from mergebuild.recipe.tree import Entry, Leaf

KEYS: Final = ("recipe", "vars", "sources")
NAMESPACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,49}", re.ASCII)
_HINT: Final = "write 'name: ./recipe.yaml', or {recipe: …, vars: {…}, sources: {…}}"

ReadPart: TypeAlias = Callable[[Fetched, Frame, Context], Part]
"""Reads an included recipe in its frame."""


def follow(
    entry: Entry, names: Names, frame: Frame, read: ReadPart, ctx: Context
) -> dict[str, Part]:
    """Every included recipe by its namespace, in declared order; each adds to `names`, so that the
    next may be given what it makes."""
    found: dict[str, Part] = {}
    for namespace, one in fields.entries(entry.value, "'include'", ctx).items():
        if not NAMESPACE.fullmatch(namespace):
            hint = "use letters, digits, '_' and '-', at most 50"
            ctx.error(f"{shown(namespace)} is not a name for an include", one.at, hint)
            continue
        said = _said(namespace, one, names, ctx)
        if said is None:
            continue
        reference, at, variables, given = said
        fetched = frame.fetch(reference, namespace, at, ctx)
        part = read(fetched, frame.inner(namespace, fetched.origin, variables, given), ctx)
        for name, whole in part.names.items():
            if f"{namespace}.{name}" in names.nodes:
                said_ = f"node {shown(f'{namespace}.{name}')} has the name of an included one"
                ctx.error(said_, one.at, "rename the include")
            names.nodes[f"{namespace}.{name}"] = whole
        for name, source in part.aliases.items():
            names.aliases[f"{namespace}.{name}"] = source
        names.met_overrides.update(f"{namespace}.{name}" for name in part.met)
        names.met_overrides.update(name for name in part.met if "/" in name)
        found[namespace] = part
    return found


def _said(
    namespace: str, entry: Entry, names: Names, ctx: Context
) -> tuple[str, Location, Mapping[str, Entry], Mapping[str, ModelRef]] | None:
    """The reference and its place, and what is said over variables and sources."""
    what = f"include {shown(namespace)}"
    if isinstance(entry.value, Leaf):
        text = fields.text(entry.value, what, ctx)
        return (text, entry.value.at, {}, {}) if text is not None else None
    before = len(ctx.problems)
    keys = fields.entries(entry.value, what, ctx, KEYS)
    if "recipe" not in keys:
        ctx.error(f"{what} has no 'recipe'", entry.at, _HINT)
        return None
    text = fields.text(keys["recipe"].value, f"'recipe' of {what}", ctx)
    variables: Mapping[str, Entry] = {}
    if "vars" in keys:
        variables = fields.entries(keys["vars"].value, f"'vars' of {what}", ctx)
    given: dict[str, ModelRef] = {}
    if "sources" in keys:
        listed = fields.entries(keys["sources"].value, f"'sources' of {what}", ctx)
        for name, one in listed.items():
            given[name] = resolve(one.value, f"source {shown(name)} of {what}", names, ctx)
    if text is None or len(ctx.problems) > before:
        return None
    return text, keys["recipe"].value.at, variables, given


def check_given(frame: Frame, names: Names, ctx: Context) -> None:
    """Reports what the including recipe says over sources that are not here."""
    known = [*names.own_aliases, *names.literals]
    for name, model in frame.given.items():
        if name not in names.met_given:
            said = f"the included recipe {shown(frame.origin.file)} has no source {shown(name)}"
            at = model.at or Location(frame.origin.file, 1, 1)
            ctx.error(said, at, did_you_mean(name, known))
