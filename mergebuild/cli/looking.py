"""Commands that look: graph, show, methods, inspect; and init, which starts a recipe."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import mergebuild.api as api
from mergebuild.checkpoint.comparison import compare
from mergebuild.cli.options import CacheFolder, Jobs, Json, RecipeFile, Variables, pairs, the_cache
from mergebuild.cli.sinks import complain
from mergebuild.console.checkpoints import inspect_json, inspect_text
from mergebuild.console.comparisons import comparison_json, comparison_text
from mergebuild.console.graphs import FORMATS
from mergebuild.console.methods import method_list, method_text
from mergebuild.console.plain import plain_sink
from mergebuild.engine.deltas import distances
from mergebuild.errors import CheckpointError, UsageError, did_you_mean
from mergebuild.files import write_file
from mergebuild.graph import build_order
from mergebuild.methods import registry
from mergebuild.plan.looking import differing_files, differing_tokens
from mergebuild.recipe.resolved import resolved_text
from mergebuild.recipe.schema import mergekit_schema, recipe_schema
from mergebuild.recipe.starter import STARTER
from mergebuild.site import Site


class Format(StrEnum):
    """How a graph is written."""

    TEXT = "text"
    MERMAID = "mermaid"
    DOT = "dot"
    JSON = "json"


def graph(
    recipe: RecipeFile,
    format_: Annotated[
        Format, typer.Option("--format", "-f", help="How to write it.")
    ] = Format.TEXT,
    set_: Variables = None,
) -> None:
    """Write the graph of a recipe: what is made from what."""
    loaded = api.load(recipe, variables=pairs("--set", set_))
    order = build_order(loaded, loaded.nodes)
    typer.echo(FORMATS[format_.value](loaded, order))


def show(recipe: RecipeFile, set_: Variables = None, cache: CacheFolder = None) -> None:
    """Write the whole recipe as it is understood: includes, variables, aliases, defaults."""
    loaded = api.load(
        recipe, variables=pairs("--set", set_), cache=the_cache(cache).root, site=Site()
    )
    typer.echo(resolved_text(loaded), nl=False)


def methods(
    name: Annotated[str | None, typer.Argument(help="A method (default: list all).")] = None,
) -> None:
    """List the merge methods, or show one with its equation, parameters and an example."""
    known = registry()
    if name is None:
        typer.echo(method_list(known))
        return
    if name not in known:
        raise UsageError.of(f"unknown method '{name}'", hint=did_you_mean(name, list(known)))
    typer.echo(method_text(known[name]))


def inspect(
    model: Annotated[
        str, typer.Argument(help="A folder, a file or a Hub id, '+adapter' with a LoRA.")
    ],
    other: Annotated[
        str | None, typer.Argument(help="Another one: show what differs between the two.")
    ] = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    deltas: Annotated[
        bool, typer.Option("--deltas", help="Read two models and show how far they are apart.")
    ] = False,
    cache: CacheFolder = None,
    jobs: Jobs = None,
    json_: Json = False,
) -> None:
    """Show what a checkpoint holds and what it was made from, or how two differ."""
    if other is None and deltas:
        raise UsageError.of("--deltas needs two models", hint="name another one")
    if other is not None and tensors:
        raise UsageError.of("--tensors is of one model", hint="leave the other out")
    settings, sink = api.settings_of(jobs=jobs), plain_sink(complain)
    one = api.look(model, cache=the_cache(cache).root, settings=settings, sink=sink)
    if other is None:
        made = json.dumps(inspect_json(one), indent=1) if json_ else inspect_text(one, tensors)
        typer.echo(made)
        return
    two = api.look(other, cache=the_cache(cache).root, settings=settings, sink=sink)
    found = compare(one.tensors, two.tensors, one.config, two.config)
    files = differing_files(one, two)
    tokens = None
    try:
        tokens = differing_tokens(one, two, [name for name, _ in files])
    except CheckpointError as error:
        complain(f"note: vocabularies are not compared: {error.problems[0].message}")
    apart = None
    if deltas:
        apart = distances(one, two, found.pairs, settings.threads)
    if json_:
        typer.echo(json.dumps(comparison_json(one, two, found, files, tokens, apart), indent=1))
    else:
        typer.echo(comparison_text(one, two, found, files, tokens, apart))


def schema(
    mergekit: Annotated[
        bool, typer.Option("--mergekit", help="That of mergekit files, not of native recipes.")
    ] = False,
) -> None:
    """Write the JSON schema of recipes, by which editors complete and check them."""
    made = mergekit_schema(registry()) if mergekit else recipe_schema(registry())
    typer.echo(json.dumps(made, indent=1, ensure_ascii=False))


def init(
    path: Annotated[Path, typer.Argument(help="The recipe to write.")] = Path("recipe.yaml"),
) -> None:
    """Write a recipe to start from."""
    if path.exists():
        raise UsageError.of(f"'{path}' is there already", hint="name another file")
    if not path.parent.is_dir():
        raise UsageError.of(f"there is no folder '{path.parent}'")
    write_file(path, STARTER.encode())
    typer.echo(f"wrote {path}; next: edit its sources, then 'mergebuild plan {path}'", err=True)
