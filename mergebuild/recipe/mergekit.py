"""A plain mergekit file, of one or several documents -> a Recipe.

Each document is a node. Must not know what stands inside a node.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from mergebuild.errors import UsageError
from mergebuild.methods.declaration import Method
from mergebuild.recipe import fields, mixture, names, node, validate
from mergebuild.recipe.context import Context, in_order
from mergebuild.recipe.frame import Frame, Part
from mergebuild.recipe.includes import check_given
from mergebuild.recipe.meanings import Names, names_in
from mergebuild.recipe.model import Node, Recipe
from mergebuild.recipe.tree import Fields, Tree

_NATIVE_HINT: Final = "only native recipes have this key: add 'mergebuild: 1' and 'nodes:'"
_VARS: Final = "variables belong to native recipes: 'mergebuild: 1' with 'vars:'"
_HINTS: Final = dict.fromkeys(
    (*node.NATIVE_KEYS, *mixture.NATIVE_KEYS, "kind", "include", "sources", "vars", "outputs"),
    _NATIVE_HINT,
)


def read(documents: list[Tree], text: str, path: Path, frame: Frame, ctx: Context) -> Recipe:
    """The recipe of a file's documents."""
    known, nodes, unnamed = _read(documents, path.stem, frame, ctx)
    validate.check_adapters(nodes, ctx)
    validate.check_cycles(nodes, ctx)
    if ctx.problems:
        ctx.stop()
    known.unmatched()
    wanted = [unnamed] if unnamed else validate.unused(nodes)
    outputs = dict.fromkeys(wanted)
    warnings = in_order(ctx.warnings.values())
    return Recipe(names.from_stem(path.stem), path, nodes, outputs, text, False, warnings)


def part(documents: list[Tree], frame: Frame, ctx: Context) -> Part:
    """What the documents of an included file bring."""
    stem = PurePosixPath(frame.origin.path).stem
    known, nodes, _ = _read(documents, stem, frame, ctx)
    for name, entry in frame.variables.items():
        ctx.error(f"variable '{name}' is given to a mergekit file, which has none", entry.at, _VARS)
    check_given(frame, known, ctx)
    return Part(nodes, known.nodes, {}, frozenset(known.met_overrides))


def _read(
    documents: list[Tree], stem: str, frame: Frame, ctx: Context
) -> tuple[Names, dict[str, Node], str | None]:
    """What names mean, all nodes, and which of them has no name in the file."""
    if frame.overrides.variables:
        name, value = next(iter(frame.overrides.variables.items()))
        said = f"--set {frame.prefix}{name}={value}: a mergekit file has no variables"
        raise UsageError.of(said, hint=_VARS)
    named, unnamed = _named(documents, stem, ctx)
    known = names_in(named, frame)
    nodes: dict[str, Node] = {}
    for name, document in named.items():
        one = _node(frame.prefix + name, document, frame.composition.methods, known, ctx)
        if one is not None:
            nodes[one.name] = one
    nodes.update(validate.applications(known))
    return known, nodes, unnamed


def _node(
    name: str,
    document: Fields,
    methods: Mapping[str, Method],
    known: Names,
    ctx: Context,
) -> Node | None:
    """A merge, or with `experts` what mergekit-moe reads."""
    about = ctx.within(name)
    experts = "experts" in document.entries and "merge_method" not in document.entries
    allowed = mixture.MERGEKIT_KEYS if experts else node.MERGEKIT_KEYS
    body = fields.entries(document, "the configuration", about, ("name", *allowed), _HINTS)
    if experts:
        return mixture.read(name, body, document.at, known, about)
    one = node.read(name, body, document.at, methods, known, ctx)
    method = methods.get(one.method)
    return validate.fitted(one, method, ctx) if method else one


def _named(documents: list[Tree], stem: str, ctx: Context) -> tuple[dict[str, Fields], str | None]:
    """The documents by name, and the name made up for the one that has none."""
    found: dict[str, Fields] = {}
    unnamed: list[Fields] = []
    for document in documents:
        if not isinstance(document, Fields):
            hint = "a recipe starts with keys such as 'merge_method:'"
            said = f"a document must be a mapping, not {fields.described(document)}"
            ctx.error(said, document.at, hint)
            continue
        entry = document.entries.get("name")
        if entry is None or fields.is_null(entry.value):
            unnamed.append(document)
            continue
        name = fields.text(entry.value, "'name'", ctx)
        if name is None or not names.check(name, entry.value.at, ctx):
            continue
        if name in found:
            hint = "every document needs a name of its own"
            ctx.error(f"two documents are named '{name}'", entry.value.at, hint)
        else:
            found[name] = document
    if len(unnamed) > 1:
        hint = "give each stage a 'name:'; only the output goes without"
        ctx.error("more than one document has no 'name'", unnamed[1].at, hint)
    if ctx.problems:
        ctx.stop()
    if not unnamed:
        return found, None
    made_up = names.from_stem(stem)
    while made_up in found:
        made_up += "-output"
    return {**found, made_up: unnamed[0]}, made_up
