"""The command lock: what a recipe was resolved to, written, renewed or checked."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

import mergebuild.api as api
from mergebuild.cli.options import CacheFolder, Jobs, Offline, RecipeFile, Sources, source_places
from mergebuild.cli.sinks import complain, event_sink
from mergebuild.errors import UsageError
from mergebuild.files import write_file
from mergebuild.share.lock.beside import lock_path
from mergebuild.share.lock.text import lock_text
from mergebuild.site import load_site

OUT_OF_DATE = 3


def lock(
    recipe: RecipeFile,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE", help="With --update: which sources and includes."),
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Look up anew what revisions mean.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 3 if it is out of date.")
    ] = False,
    source: Sources = None,
    cache: CacheFolder = None,
    jobs: Jobs = None,
    offline: Offline = False,
) -> None:
    """Write down what a recipe is made of, so that it builds the same anywhere: RECIPE.lock."""
    if names and not update:
        raise UsageError.of(f"'{names[0]}' says nothing without --update", hint="add --update")
    if check and update:
        raise UsageError.of("--check and --update exclude each other")
    site = load_site()
    path = lock_path(recipe)
    with ExitStack() as stack:
        made, problems = api.locked_anew(
            recipe,
            sources=source_places(source),
            update=(names or ()) if update else None,
            cache=cache,
            settings=api.settings_of(site, jobs=jobs, offline=offline),
            site=site,
            sink=event_sink(stack, False),
        )
    text = lock_text(made).encode()
    if check:
        _check(path.exists(), [problem.render("drift") for problem in problems], str(recipe))
        complain(f"{path}: up to date")
    elif path.exists() and path.read_bytes() == text:
        complain(f"{path}: up to date")
    else:
        write_file(path, text)
        complain(f"wrote {path}: {len(made.sources)} sources, {len(made.nodes)} nodes")


def _check(there: bool, drifts: list[str], recipe: str) -> None:
    if not there:
        drifts = [f"'{recipe}' has no lock"]
    for text in drifts:
        complain(text)
    if drifts:
        complain(f"\nhint: mergebuild lock {recipe}")
        raise typer.Exit(OUT_OF_DATE)
