"""`${name}` in a native recipe: what variables are worth, and their substitution in a tree.

A scalar that is nothing but one `${name}` takes the variable's value with its type, a list
included; inside longer text the value is spelled out. `$${` stands for a literal `${`. Variables do
not speak of one another, and keys are never substituted. Must not know what a recipe looks like.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from mergebuild.errors import Location, Problem, RecipeError, UsageError, did_you_mean
from mergebuild.recipe import fields
from mergebuild.recipe.context import Context, shown
from mergebuild.recipe.tree import Entry, Fields, Items, Leaf, Tree
from mergebuild.recipe.yaml_tree import MOST_CHARACTERS, parse

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_USE: Final = re.compile(r"\$\$\{|\$\{(?:([^{}]*)\})?")


def declared(tree: Tree, ctx: Context) -> dict[str, Entry]:
    """The recipe's `vars`: names with scalars or lists of scalars."""
    found: dict[str, Entry] = {}
    for name, entry in fields.entries(tree, "'vars'", ctx).items():
        if not NAME.fullmatch(name):
            hint = "use letters, digits, '_' and '-', a letter first"
            ctx.error(f"{shown(name)} is not a name for a variable", entry.at, hint)
        elif not _is_plain(entry.value):
            what = f"variable '{name}' must be a scalar or a list of scalars"
            ctx.error(f"{what}, not {fields.described(entry.value)}", entry.value.at)
        elif any("${" in leaf.text for leaf in _leaves(entry.value)):
            what = f"variable '{name}' uses '${{', but variables do not speak of one another"
            ctx.error(what, entry.value.at, "write its value out")
        else:
            found[name] = entry
    return found


def given(
    found: Mapping[str, Entry], said: Mapping[str, Entry], file: str, ctx: Context
) -> dict[str, Entry]:
    """The variables of a recipe, `file`, with those that an including recipe says in their
    place."""
    values = dict(found)
    for name, entry in said.items():
        if name not in found:
            said_ = f"the included recipe {shown(file)} has no variable {shown(name)}"
            ctx.error(said_, entry.at, did_you_mean(name, list(found)))
        elif not _is_plain(entry.value):
            what = f"variable '{name}' must be a scalar or a list of scalars"
            ctx.error(f"{what}, not {fields.described(entry.value)}", entry.value.at)
        else:
            values[name] = entry
    return values


def overridden(
    found: Mapping[str, Entry], overrides: Mapping[str, str], prefix: str = ""
) -> dict[str, Entry]:
    """The variables with those of `--set` in their place, under which the recipe's begin with
    `prefix`; raises UsageError for unknown ones."""
    problems: list[Problem] = []
    values = dict(found)
    for name, text in overrides.items():
        if name not in found:
            message = f"--set {prefix}{name}={text}: the recipe has no variable {shown(name)}"
            problems.append(Problem(message, hint=did_you_mean(name, list(found))))
            continue
        value = _parsed(name, text, problems)
        if value is not None:
            values[name] = Entry(name, value, found[name].at)
    if problems:
        raise UsageError(*problems)
    return values


def _parsed(name: str, text: str, problems: list[Problem]) -> Tree | None:
    ctx = Context()
    try:
        trees = parse(text, f"--set {name}", ctx)
    except RecipeError:
        trees = []
    if not text.strip():
        return Leaf("", "", Location(f"--set {name}", 1, 1))
    if ctx.problems or len(trees) != 1 or not _is_plain(trees[0]):
        hint = "give a number, a word, or a list such as [0, 0.5, 1]"
        problems.append(Problem(f"--set {name}: {shown(text)} is not a value", hint=hint))
        return None
    return trees[0]


@dataclass(slots=True)
class Substitution:
    """Replaces variables in trees; holds which were met and how much they have come to."""

    values: Mapping[str, Entry]
    ctx: Context
    met: set[str] = field(default_factory=set)
    spent: int = 0

    def tree(self, tree: Tree) -> Tree:
        """The tree with every `${name}` replaced."""
        match tree:
            case Leaf(value=str()) if "${" in tree.text:
                return self._leaf(tree)
            case Leaf():
                return tree
            case Items():
                return Items(tuple(self.tree(item) for item in tree.items), tree.at)
            case Fields():
                replaced = {
                    key: Entry(key, self.tree(entry.value), entry.at)
                    for key, entry in tree.entries.items()
                }
                return Fields(replaced, tree.at)

    def _leaf(self, leaf: Leaf) -> Tree:
        whole = _USE.fullmatch(leaf.text)
        if whole and whole[1] is not None:
            value = self._value(whole[1], leaf)
            return leaf if value is None else _moved(value, leaf.at)
        if any(use[0] == "${" for use in _USE.finditer(leaf.text)):
            hint = "close it with '}', or write '$${' for a literal '${'"
            self.ctx.error(f"'${{' is not closed in {shown(leaf.text)}", leaf.at, hint)
            return leaf
        text = _USE.sub(lambda use: self._spelled(use, leaf), leaf.text)
        return Leaf(text, text, leaf.at)

    def _spelled(self, use: re.Match[str], leaf: Leaf) -> str:
        if use[0] == "$${":
            return "${"
        value = self._value(use[1], leaf)
        if isinstance(value, Items):
            said = f"variable '{use[1]}' is a list and cannot stand inside text"
            self.ctx.error(said, leaf.at)
        return value.text if isinstance(value, Leaf) else ""

    def _value(self, name: str, leaf: Leaf) -> Tree | None:
        self.met.add(name)
        if name in self.values:
            value = self.values[name].value
            self.spent += sum(len(part.text) + 1 for part in _leaves(value))
            if self.spent > MOST_CHARACTERS:
                self.ctx.fatal("the variables come to more than 1 MiB of text", leaf.at)
            return value
        hint = "declare it under 'vars:', or write '$${' for a literal '${'"
        if self.values:
            hint = did_you_mean(name, list(self.values))
        self.ctx.error(f"undefined variable {shown(name)}", leaf.at, hint)
        return None


def _moved(tree: Tree, at: Location) -> Tree:
    """The value as if it had been written where it is used."""
    if isinstance(tree, Leaf):
        return Leaf(tree.value, tree.text, at)
    return Items(tuple(_moved(item, at) for item in _leaves(tree)), at)


def _leaves(tree: Tree) -> list[Leaf]:
    members = tree.items if isinstance(tree, Items) else (tree,)
    return [member for member in members if isinstance(member, Leaf)]


def _is_plain(tree: Tree) -> bool:
    members = tree.items if isinstance(tree, Items) else (tree,)
    return all(isinstance(member, Leaf) for member in members)
