"""YAML text -> trees of located values, safely.

Owns syntax, scalar types, anchors, merge keys and the limits that make a hostile
file harmless. Reads parser events, which is iterative, so that depth is bounded before anything
recurses. Must not know what a recipe looks like.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import yaml
from yaml.resolver import Resolver

from mergebuild.errors import Location
from mergebuild.recipe.context import Context, shown
from mergebuild.recipe.model import Scalar
from mergebuild.recipe.tree import Entry, Fields, Items, Leaf, Tree

MOST_CHARACTERS: Final = 1 << 20
MOST_VALUES: Final = 100_000
MOST_DOCUMENTS: Final = 100
DEEPEST: Final = 64
LONGEST_NUMBER: Final = 100

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CORE: Final = "tag:yaml.org,2002:"
_CORE_TAGS: Final = {_CORE + kind for kind in ("str", "int", "float", "bool", "null", "seq", "map")}
_FORBIDDEN: Final = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)


@dataclass(frozen=True, slots=True)
class _Grown:
    """A tree with what the limits need to know of it."""

    tree: Tree
    values: int
    height: int


def parse(text: str, file: str, ctx: Context) -> list[Tree]:
    """The documents of a YAML text, empty ones left out; what can be read on from goes to `ctx`.

    Duplicate keys do, but for those of a document's top level: they stand in `Fields.repeated`.
    Raises RecipeError at once for what cannot be read on from: syntax and limits.
    """
    start = Location(file, 1, 1)
    if len(text) > MOST_CHARACTERS:
        ctx.fatal("the file is larger than 1 MiB", start, "a recipe is text of a few kilobytes")
    if bad := _FORBIDDEN.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - (text.rfind("\n", 0, bad.start()) + 1) + 1
        what = f"character U+{ord(bad.group()):04X} is not allowed in YAML"
        ctx.fatal(what, Location(file, line, column), "is this a text file?")
    try:
        return _Grower(text, file, ctx).documents()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = Location(file, mark.line + 1, mark.column + 1) if mark else start
        lines = text.splitlines() or [""]
        if at.line > len(lines):
            at = Location(file, len(lines), len(lines[-1]) + 1)
        ctx.fatal(f"not valid YAML: {error.problem or error.context}", at, _syntax_hint(error))
    except (yaml.YAMLError, ValueError) as error:
        ctx.fatal(f"not valid YAML: {shown(str(error))}", start)


def _syntax_hint(error: yaml.MarkedYAMLError) -> str | None:
    if "cannot start any token" in (error.problem or ""):
        return "indent with spaces, and quote text that starts with one of @ ` % & * ! | >"
    return error.context


class _Grower:
    """Holds the event stream open, and the anchors of the document being read."""

    def __init__(self, text: str, file: str, ctx: Context) -> None:
        self._events: Iterator[yaml.Event] = iter(yaml.parse(text, Loader=_LOADER))
        self._file = file
        self._ctx = ctx
        self._resolver = Resolver()
        self._scalars = yaml.constructor.SafeConstructor()
        self._anchors: dict[str, _Grown | None] = {}
        self._values = 0

    def documents(self) -> list[Tree]:
        found: list[Tree] = []
        for event in self._events:
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            self._anchors.clear()
            tree = self._grow(next(self._events), 1).tree
            if not (isinstance(tree, Leaf) and tree.text == ""):
                found.append(tree)
            if len(found) > MOST_DOCUMENTS:
                self._ctx.fatal(f"more than {MOST_DOCUMENTS} documents in one file", tree.at)
        return found

    def _grow(self, event: yaml.Event, depth: int) -> _Grown:
        at = self._place(event)
        if depth > DEEPEST:
            self._ctx.fatal(f"nested more than {DEEPEST} levels deep", at)
        if isinstance(event, yaml.AliasEvent):
            grown = self._alias(event.anchor or "", at)
            if depth + grown.height > DEEPEST:
                self._ctx.fatal(f"nested more than {DEEPEST} levels deep", at)
            self._count(grown.values, at)
            return grown
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        self._count(1, at)
        self._check_tag(event.tag, at)
        if event.anchor:
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            grown = _Grown(self._leaf(event, at), 1, 0)
        elif isinstance(event, yaml.SequenceStartEvent):
            grown = self._items(at, depth)
        else:
            grown = self._fields(at, depth)
        if event.anchor:
            self._anchors[event.anchor] = grown
        return grown

    def _place(self, event: yaml.Event) -> Location:
        mark = event.start_mark
        assert mark is not None
        return Location(self._file, mark.line + 1, mark.column + 1)

    def _count(self, values: int, at: Location) -> None:
        self._values += values
        if self._values > MOST_VALUES:
            hint = "repeated use of anchors multiplies; write less"
            self._ctx.fatal(f"more than {MOST_VALUES} values in one file", at, hint)

    def _alias(self, anchor: str, at: Location) -> _Grown:
        if anchor not in self._anchors:
            known = ", ".join(f"*{name}" for name in sorted(self._anchors)[:10]) or "none"
            self._ctx.fatal(f"undefined anchor {shown(anchor)}", at, f"known are: {known}")
        grown = self._anchors[anchor]
        if grown is None:
            self._ctx.fatal(f"anchor {shown(anchor)} contains itself", at)
        return grown

    def _check_tag(self, tag: str | None, at: Location) -> None:
        if tag is None or tag == "!" or tag in _CORE_TAGS:
            return
        name = tag.replace(_CORE, "!!", 1)
        self._ctx.error(f"tag {shown(name)} is not allowed", at, "write plain values without tags")

    def _items(self, at: Location, depth: int) -> _Grown:
        grown = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            grown.append(self._grow(event, depth + 1))
        tree = Items(tuple(item.tree for item in grown), at)
        return _size(tree, grown)

    def _fields(self, at: Location, depth: int) -> _Grown:
        own: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        repeated: list[Entry] = []
        grown = []
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            plain = isinstance(event, yaml.ScalarEvent) and event.implicit[0]
            key, value = self._grow(event, depth + 1), self._grow(next(self._events), depth + 1)
            grown += [key, value]
            if not isinstance(key.tree, Leaf):
                self._ctx.error("a key must be plain text", key.tree.at)
            elif key.tree.text == "<<" and plain:
                self._merge(value, merged)
            elif key.tree.text in own:
                repeated.append(Entry(key.tree.text, value.tree, key.tree.at))
            else:
                own[key.tree.text] = Entry(key.tree.text, value.tree, key.tree.at)
        rest = {name: entry for name, entry in merged.items() if name not in own}
        tree = Fields({**rest, **own}, at, tuple(repeated))
        if depth > 1:
            report_repeated(tree, self._ctx)
        return _size(tree, grown)

    def _merge(self, value: _Grown, merged: dict[str, Entry]) -> None:
        parts = value.tree.items if isinstance(value.tree, Items) else (value.tree,)
        for part in parts:
            if isinstance(part, Fields):
                self._count(len(part.entries), part.at)
                for name, entry in part.entries.items():
                    merged.setdefault(name, entry)
            else:
                hint = "write '<<: *anchor' or '<<: [*one, *two]'"
                self._ctx.error("'<<' must be given a mapping or a list of mappings", part.at, hint)

    def _leaf(self, event: yaml.ScalarEvent, at: Location) -> Leaf:
        text: str = event.value
        tag = event.tag
        if tag is None and event.implicit[0] and len(text) <= LONGEST_NUMBER:
            tag = self._resolver.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        try:
            return Leaf(self._value(tag, text), text, at)
        except (ValueError, OverflowError, KeyError, IndexError):
            self._ctx.error(f"{shown(text)} is not a number that can be read", at)
            return Leaf(text, text, at)

    def _value(self, tag: str | None, text: str) -> Scalar:
        node = yaml.ScalarNode(tag or "", text)
        match (tag or "").removeprefix(_CORE):
            case "null":
                return None
            case "bool":
                return bool(self._scalars.construct_yaml_bool(node))
            case "int" if len(text) <= LONGEST_NUMBER:
                return int(self._scalars.construct_yaml_int(node))
            case "float" if len(text) <= LONGEST_NUMBER:
                return float(self._scalars.construct_yaml_float(node))
            case _:
                return text


def report_repeated(tree: Fields, ctx: Context) -> None:
    for entry in tree.repeated:
        line = tree.entries[entry.key].at.line
        hint = f"it stands in line {line} already; delete one of the two"
        ctx.error(f"duplicate key {shown(entry.key)}", entry.at, hint)


def _size(tree: Tree, parts: list[_Grown]) -> _Grown:
    values = 1 + sum(part.values for part in parts)
    return _Grown(tree, values, 1 + max((part.height for part in parts), default=0))
