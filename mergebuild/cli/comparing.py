"""`build --check`: what was built, built again and compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import typer

from mergebuild.cli.options import source_places
from mergebuild.cli.sinks import event_sink
from mergebuild.console.cache import comparison_text
from mergebuild.engine.check import Comparison
from mergebuild.engine.options import Options
from mergebuild.events import silent
from mergebuild.graph import select
from mergebuild.plan import Settings
from mergebuild.proof import check, check_output
from mergebuild.recipe import Recipe
from mergebuild.site import Site

DIFFERENT = 1


def compared_output(
    folder: Path,
    sources: Sequence[str] | None,
    cache: Path | None,
    settings: Settings,
    site: Site,
    json_: bool,
) -> dict[str, Comparison]:
    """A published folder, with what it records built again."""
    places = source_places(sources)
    with ExitStack() as stack:
        sink = silent if json_ else event_sink(stack, json_)
        result = check_output(
            folder, sources=places, cache=cache, settings=settings, site=site, sink=sink
        )
    return {str(folder): result}


def compared_nodes(
    recipe: Recipe,
    nodes: Sequence[str] | None,
    cache: Path | None,
    settings: Settings,
    options: Options,
    site: Site,
) -> dict[str, Comparison]:
    """The chosen nodes of a recipe, or its outputs, each built again from what it reads."""
    chosen = select(recipe, nodes) if nodes else set(recipe.outputs)
    return {
        name: check(recipe, name, cache=cache, settings=settings, options=options, site=site)
        for name in recipe.nodes
        if name in chosen
    }


def tell(compared: Mapping[str, Comparison], json_: bool) -> None:
    """Says what differs; exits with 1 if anything does."""
    for name, result in compared.items():
        typer.echo(json.dumps(asdict(result)) if json_ else comparison_text(name, result))
    if not all(result.same for result in compared.values()):
        raise typer.Exit(DIFFERENT)
