"""A model reference as it is written: text or mapping -> Source, nothing resolved.

Owns the grammar `path_or_hub_id[@revision][+lora[@revision]]`. Never looks at the disk: where a
text could also be the name of a folder (`./a+b`), `Source.text` keeps it, and whoever can look
decides. The mapping form is taken as it stands.
"""

from __future__ import annotations

import posixpath
from dataclasses import replace
from typing import Final

from mergebuild.errors import Location
from mergebuild.recipe import fields
from mergebuild.recipe.context import Context, shown
from mergebuild.recipe.model import Source
from mergebuild.recipe.names import REPO
from mergebuild.recipe.tree import Leaf, Tree

REFERENCE_KEYS: Final = ("model", "path", "revision", "lora")
PLACE_KEYS: Final = ("path", "revision")
_MAPPING_HINT: Final = "write {model: {path: ..., revision: ...}, lora: {path: ...}}"


def read(tree: Tree, what: str, ctx: Context) -> Source | None:
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
    name = spell(base) + (f"+{spell(lora)}" if lora else "")
    return replace(base, lora=lora, name=name, at=tree.at)


def from_root(within: str, place: str) -> str:
    """A place that is relative to the folder `within`, relative to the first recipe's. What may
    mean the Hub, `org/name`, stays as it is."""
    if place.startswith(("/", "~")) or REPO.fullmatch(place):
        return place
    joined = posixpath.normpath(posixpath.join(within, place))
    return joined if joined == ".." or joined.startswith("../") else f"./{joined}"


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
    return replace(source, name=spell(source))


def spell(source: Source) -> str:
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
