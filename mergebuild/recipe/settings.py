"""The keys that say the same in every kind of node: dtypes, seed, keep, and single words.

Must not know which kinds there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, cast

from mergebuild.errors import did_you_mean
from mergebuild.recipe import fields
from mergebuild.recipe.context import Context, shown
from mergebuild.recipe.filters import fault
from mergebuild.recipe.meanings import Names
from mergebuild.recipe.model import ModelRef
from mergebuild.recipe.references import resolve
from mergebuild.recipe.tree import Entry, Items

DTYPES: Final = ("bfloat16", "float16", "float32", "float64")
KEEP: Final = ("cache", "never")


def model(keys: Mapping[str, Entry], key: str, names: Names, ctx: Context) -> ModelRef | None:
    return resolve(keys[key].value, f"'{key}'", names, ctx) if key in keys else None


def text(keys: Mapping[str, Entry], key: str, ctx: Context) -> str | None:
    return fields.text(keys[key].value, f"'{key}'", ctx) if key in keys else None


def choice(
    keys: Mapping[str, Entry], key: str, choices: tuple[str, ...], ctx: Context
) -> str | None:
    return fields.choice(keys[key].value, f"'{key}'", choices, ctx) if key in keys else None


def dtype(keys: Mapping[str, Entry], key: str, ctx: Context) -> str | None:
    name = text(keys, key, ctx)
    if name is None:
        return None
    short = name.removeprefix("torch.")
    if short not in DTYPES:
        at = keys[key].value.at
        ctx.error(f"unknown {key} {shown(name)}", at, did_you_mean(short, DTYPES))
    return short


def seed(keys: Mapping[str, Entry], default: int, ctx: Context) -> int:
    found = fields.whole(keys["seed"].value, "'seed'", ctx) if "seed" in keys else None
    return default if found is None else found


def keep(keys: Mapping[str, Entry], ctx: Context) -> Literal["cache", "never"]:
    found = choice(keys, "keep", KEEP, ctx)
    return cast(Literal["cache", "never"], found or "cache")


def filters(keys: Mapping[str, Entry], key: str, ctx: Context) -> tuple[str, ...]:
    """A filter or a list of them, as parameters have them."""
    if key not in keys:
        return ()
    tree = keys[key].value
    items = fields.items(tree, f"'{key}'", ctx) if isinstance(tree, Items) else (tree,)
    found = []
    for item in items:
        written = fields.text(item, f"a filter of '{key}'", ctx)
        if written is not None:
            if why := fault(written):
                ctx.error(f"filter {shown(written)} cannot be used: {why}", item.at)
            found.append(written)
    return tuple(found)
