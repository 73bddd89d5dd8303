"""Typed reading of located trees: each function returns a value, or None after reporting why not.

Owns the wording of "wrong type" and "unknown key". Must not know which keys there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from mergebuild.errors import did_you_mean, nearest
from mergebuild.recipe.context import Context, shown
from mergebuild.recipe.tree import Entry, Fields, Items, Leaf, Tree


def described(tree: Tree) -> str:
    """What stands there, in a user's words."""
    match tree:
        case Fields():
            return "a mapping"
        case Items():
            return "a list"
        case Leaf(value=None):
            return "null"
        case Leaf(value=bool()):
            return f"the truth value {tree.text}"
        case Leaf(value=str()):
            return f"the text {shown(tree.text)}"
        case _:
            return f"the number {shown(tree.text)[1:-1]}"


def is_null(tree: Tree) -> bool:
    return isinstance(tree, Leaf) and tree.value is None


def entries(
    tree: Tree,
    what: str,
    ctx: Context,
    known: Sequence[str] | None = None,
    hints: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Entry]:
    """The entries of a mapping that say something; a key that is not `known` is an error.

    One that was likely meant to be a known key is read as that, to find more mistakes at once.
    `hints` has advice on single unknown keys that is better than a near match.
    """
    if is_null(tree):
        return {}
    if not isinstance(tree, Fields):
        ctx.error(f"{what} must be a mapping, not {described(tree)}", tree.at)
        return {}
    found: dict[str, Entry] = {}
    for key, entry in tree.entries.items():
        if known is not None and key not in known:
            hint = hints.get(key) or did_you_mean(key, known)
            ctx.error(f"unknown key {shown(key)} in {what}", entry.at, hint)
            meant = nearest(key, known)
            if meant is not None and meant not in tree.entries:
                found[meant] = entry
        elif known is None or not is_null(entry.value):
            found[key] = entry
    return found


def items(tree: Tree, what: str, ctx: Context) -> tuple[Tree, ...]:
    """The items of a list that must not be empty."""
    if not isinstance(tree, Items):
        ctx.error(f"{what} must be a list, not {described(tree)}", tree.at)
        return ()
    if not tree.items:
        ctx.error(f"{what} must not be empty", tree.at)
    return tree.items


def text(tree: Tree, what: str, ctx: Context) -> str | None:
    """Text as written: what YAML takes for a number (a commit `0123456`) is text too."""
    if isinstance(tree, Leaf) and tree.value is not None and not isinstance(tree.value, bool):
        if tree.text.strip():
            return tree.text
        ctx.error(f"{what} must not be empty", tree.at)
        return None
    hint = f"put it in quotes: {shown(tree.text)}" if isinstance(tree, Leaf) and tree.text else None
    ctx.error(f"{what} must be text, not {described(tree)}", tree.at, hint)
    return None


def whole(tree: Tree, what: str, ctx: Context, low: int = 0) -> int | None:
    """A whole number of at least `low`."""
    value = tree.value if isinstance(tree, Leaf) else None
    if isinstance(value, int) and not isinstance(value, bool):
        if value >= low:
            return value
        ctx.error(f"{what} must be at least {low}, not {value}", tree.at)
        return None
    ctx.error(f"{what} must be a whole number, not {described(tree)}", tree.at)
    return None


def number(tree: Tree, what: str, ctx: Context, default: float) -> float:
    """A finite number; `default` after a mistake."""
    value = tree.value if isinstance(tree, Leaf) else None
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e308:
        return float(value)
    ctx.error(f"{what} must be a finite number, not {described(tree)}", tree.at)
    return default


def choice(tree: Tree, what: str, choices: Sequence[str], ctx: Context) -> str | None:
    """One of a few words."""
    if isinstance(tree, Leaf) and tree.text in choices:
        return tree.text
    near = nearest(tree.text, choices) if isinstance(tree, Leaf) else None
    hint = f"did you mean '{near}'?" if near else None
    listed = ", ".join(f"'{one}'" for one in choices)
    ctx.error(f"{what} must be one of {listed}, not {described(tree)}", tree.at, hint)
    return None


def truth(tree: Tree, what: str, ctx: Context) -> bool | None:
    """true or false."""
    if isinstance(tree, Leaf) and isinstance(tree.value, bool):
        return tree.value
    ctx.error(f"{what} must be true or false, not {described(tree)}", tree.at)
    return None
