"""Recipe files: reading them, and telling native recipes from mergekit files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from mergebuild.errors import Location
from mergebuild.methods.declaration import Method
from mergebuild.recipe import mergekit, native
from mergebuild.recipe.context import Context
from mergebuild.recipe.frame import Frame, Part, alone
from mergebuild.recipe.model import Recipe
from mergebuild.recipe.origin import Fetch, Fetched
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
    fetch: Fetch | None = None,
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
        fetch=fetch,
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
    fetch: Fetch | None = None,
) -> Recipe:
    """The recipe that a text says; `path` is where it stands, for messages and relative paths.

    `variables` replace the recipe's `vars` (YAML scalars or flow lists), `sources` its sources by
    alias or by what is written, and `mirrors` those of them that it has. `strict` makes unknown
    parameters errors in mergekit files too. `fetch` brings included recipes.
    Raises RecipeError with every independent mistake, UsageError for overrides that do not fit.
    """
    ctx = Context(strict=strict)
    frame = alone(path, methods, Overrides(variables, sources, mirrors), fetch)
    documents, ctx = _documents(text, str(path), ctx)
    if ctx.native:
        assert isinstance(documents[0], Fields)
        return native.read(documents[0], text, path, frame, _part, ctx)
    return mergekit.read(documents, text, path, frame, ctx)


def _part(fetched: Fetched, frame: Frame, ctx: Context) -> Part:
    """What an included recipe brings, told of with places in it."""
    documents, ctx = _documents(fetched.text, fetched.origin.file, ctx)
    if ctx.native:
        assert isinstance(documents[0], Fields)
        return native.part(documents[0], frame, _part, ctx)
    return mergekit.part(documents, frame, ctx)


def _documents(text: str, file: str, ctx: Context) -> tuple[list[Tree], Context]:
    """The documents of a file, and the same findings in its dialect."""
    documents = parse(text, file, ctx)
    if not documents:
        hint = "see 'mergebuild init' for a recipe to start from"
        ctx.fatal("the recipe is empty", Location(file, 1, 1), hint)
    native_ = any("mergebuild" in _keys(document) for document in documents)
    ctx = replace(ctx, native=native_)
    if native_:
        if len(documents) > 1:
            hint = "put all nodes under its 'nodes:'"
            ctx.fatal("a native recipe is a single document", documents[1].at, hint)
        assert isinstance(documents[0], Fields)
        report_repeated(documents[0], ctx)
        return documents, ctx
    for document in documents:
        _check_form(document, ctx)
    return documents, ctx


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
