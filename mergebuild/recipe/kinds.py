"""Which kind of node a mapping is, and which keys that kind has.

Owns `kind:`. What the keys say is read by `node`, `extraction` and `mixture`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mergebuild.methods.declaration import Method
from mergebuild.recipe import extraction, fields, mixture, node, validate
from mergebuild.recipe.context import Context
from mergebuild.recipe.meanings import Names
from mergebuild.recipe.model import Node
from mergebuild.recipe.tree import Entry, Fields, Leaf, Tree

_COMMON: Final = ("kind", "description", "keep")
KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "merge": ("kind", *node.MERGEKIT_KEYS, *node.NATIVE_KEYS),
    "lora": (*_COMMON, *extraction.KEYS),
    "moe": (*_COMMON, *mixture.MERGEKIT_KEYS, *mixture.NATIVE_KEYS),
}


def read(
    name: str,
    entry: Entry,
    methods: Mapping[str, Method],
    names: Names,
    ctx: Context,
    default_seed: int,
) -> Node | None:
    """The node of a native recipe; None where nothing of it could be read."""
    about = ctx.within(name)
    kind = _kind(entry.value, about)
    before = len(ctx.problems)
    hints = {
        key: f"only nodes of kind '{other}' have this key"
        for other, keys in KEYS.items()
        for key in keys
        if key not in KEYS[kind]
    }
    keys = fields.entries(entry.value, "the node", about, KEYS[kind], hints)
    if not keys and len(ctx.problems) > before:
        return None
    if kind == "lora":
        return extraction.read(name, keys, entry.at, names, about)
    if kind == "moe":
        return mixture.read(name, keys, entry.at, names, about, default_seed)
    one = node.read(name, keys, entry.at, methods, names, ctx, default_seed)
    method = methods.get(one.method)
    return validate.fitted(one, method, ctx) if method else one


def _kind(tree: Tree, ctx: Context) -> str:
    """`kind`, or what the keys suggest if it is missing and they are no merge's."""
    entry = tree.entries.get("kind") if isinstance(tree, Fields) else None
    if entry is None or fields.is_null(entry.value):
        return "merge"
    found = fields.choice(entry.value, "'kind'", tuple(KEYS), ctx)
    if found is None and isinstance(entry.value, Leaf) and isinstance(tree, Fields):
        return "moe" if "experts" in tree.entries else "lora" if "rank" in tree.entries else "merge"
    return found or "merge"
