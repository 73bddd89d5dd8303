"""Recipe files: reading them, and telling native recipes from mergekit files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from mergebuild.errors import Location
from mergebuild.methods.declaration import Method
from mergebuild.recipe import mergekit, native
from mergebuild.recipe.context import Context
from mergebuild.recipe.model import Recipe
from mergebuild.recipe.overrides import Overrides
from mergebuild.recipe.text import read_text
from mergebuild.recipe.tree import Fields, Tree
from mergebuild.recipe.yaml_tree import parse, report_repeated

_NONE: Mapping[str, str] = MappingProxyType({})


def load_recipe(
    path: Path,
    *,
    variables: Mapping[str, str] = _NONE,
    sources: Mapping[str, str] = _NONE,
    mirrors: Mapping[str, str] = _NONE,
    methods: Mapping[str, Method],
    strict: bool = False,
) -> Recipe:
    """The recipe in a file. Raises as `parse_recipe` does, and RecipeError if it cannot be read."""
    text = read_text(path, "the recipe")
    return parse_recipe(
        text,
        path,
        variables=variables,
        sources=sources,
        mirrors=mirrors,
        methods=methods,
        strict=strict,
    )


def parse_recipe(
    text: str,
    path: Path,
    *,
    variables: Mapping[str, str] = _NONE,
    sources: Mapping[str, str] = _NONE,
    mirrors: Mapping[str, str] = _NONE,
    methods: Mapping[str, Method],
    strict: bool = False,
) -> Recipe:
    """The recipe that a text says; `path` is where it stands, for messages and relative paths.

    `variables` replace the recipe's `vars` (YAML scalars or flow lists), `sources` its sources by
    alias or by what is written, and `mirrors` those of them that it has. `strict` makes unknown
    parameters errors in mergekit files too.
    Raises RecipeError with every independent mistake, UsageError for overrides that do not fit.
    """
    ctx = Context(strict=strict)
    documents = parse(text, str(path), ctx)
    start = Location(str(path), 1, 1)
    if not documents:
        hint = "see 'mergebuild init' for a recipe to start from"
        ctx.fatal("the recipe is empty", start, hint)
    overrides = Overrides(variables, sources, mirrors)
    first = documents[0]
    if any("mergebuild" in _keys(document) for document in documents):
        if len(documents) > 1:
            hint = "put all nodes under its 'nodes:'"
            ctx.fatal("a native recipe is a single document", documents[1].at, hint)
        assert isinstance(first, Fields)
        report_repeated(first, ctx)
        ctx = Context(True, strict, problems=ctx.problems, warnings=ctx.warnings)
        return native.read(first, text, path, overrides, methods, ctx)
    for document in documents:
        _check_form(document, ctx)
    return mergekit.read(documents, text, path, overrides, methods, ctx)


def _keys(document: Tree) -> frozenset[str]:
    return frozenset(document.entries) if isinstance(document, Fields) else frozenset()


def _check_form(document: Tree, ctx: Context) -> None:
    """Slips that would otherwise yield a heap of misleading errors."""
    if not isinstance(document, Fields):
        return
    keys = document.entries
    if "nodes" in keys and "merge_method" not in keys:
        said = "'nodes' without 'mergebuild': native recipes say their version"
        ctx.fatal(said, document.at, "add 'mergebuild: 1' at the top")
    if any(entry.key == "merge_method" for entry in document.repeated):
        first = document.repeated[0]
        hint = "separate two configurations with a line '---' and give the first a 'name:'"
        ctx.fatal(f"duplicate key '{first.key}': a second configuration starts", first.at, hint)
    report_repeated(document, ctx)
