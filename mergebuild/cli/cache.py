"""Commands on the cache: ls, verify, gc, pin, unpin; and verify, on what was published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

import mergebuild.api as api
from mergebuild.cache import Cache
from mergebuild.cache.gc import Limits, collect, find_garbage, pin, unpin
from mergebuild.cache.verify import verify_cache, verify_folder
from mergebuild.cli.options import (
    CacheFolder,
    Jobs,
    Json,
    Variables,
    byte_size,
    pairs,
    the_cache,
    time_span,
)
from mergebuild.cli.sinks import event_sink
from mergebuild.console.cache import cache_json, cache_text, sweep_json, sweep_text, verdicts_text
from mergebuild.errors import UsageError

DAMAGED = 1

cache = typer.Typer(
    help="Look at the cache, verify it, clean it up.", no_args_is_help=True, rich_markup_mode=None
)

Keys = Annotated[list[str] | None, typer.Argument(help="Checkpoint keys, or how they begin.")]
OneKey = Annotated[str, typer.Argument(help="A checkpoint key, or how it begins.")]


@cache.callback()
def _cache() -> None:
    """Look at the cache, verify it, clean it up."""


@cache.command("ls")
def list_(cache: CacheFolder = None, json_: Json = False) -> None:
    """List the checkpoints in the cache, newest first."""
    place = the_cache(cache)
    typer.echo(json.dumps(cache_json(place), indent=1) if json_ else cache_text(place))


@cache.command("verify")
def verify_checkpoints(
    keys: Keys = None,
    all_: Annotated[bool, typer.Option("--all", help="Every checkpoint.")] = False,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Every node of a recipe that is cached.")
    ] = None,
    set_: Variables = None,
    cache: CacheFolder = None,
    jobs: Jobs = None,
    json_: Json = False,
) -> None:
    """Read checkpoints whole, and set aside those that are not what was written."""
    place = the_cache(cache)
    chosen = [_one(place, key) for key in keys or ()]
    if recipe is not None:
        plan = api.plan(recipe, variables=pairs("--set", set_), cache=place.root)
        there = set(place.all_keys())
        chosen += [node.key for node in plan.nodes.values() if node.key in there]
    if all_:
        chosen += place.all_keys()
    if not (chosen or all_ or recipe):
        raise UsageError.of("nothing to verify is named", hint="name keys, --recipe or --all")
    with ExitStack() as stack:
        sink = event_sink(stack, json_)
        verdicts = verify_cache(
            place, list(dict.fromkeys(chosen)), jobs=api.settings_of(jobs=jobs).threads, sink=sink
        )
    if not json_:
        typer.echo(verdicts_text(verdicts))
    if any(verdict.differences for verdict in verdicts):
        raise typer.Exit(DAMAGED)


def verify(
    folders: Annotated[list[Path], typer.Argument(help="Folders that were published.")],
    jobs: Jobs = None,
    json_: Json = False,
) -> None:
    """Read published checkpoints whole, and tell what differs from what was built."""
    with ExitStack() as stack:
        sink = event_sink(stack, json_)
        verdicts = [
            verify_folder(f, jobs=api.settings_of(jobs=jobs).threads, sink=sink) for f in folders
        ]
    if not json_:
        typer.echo(verdicts_text(verdicts))
    if any(verdict.differences for verdict in verdicts):
        raise typer.Exit(DAMAGED)


@cache.command("gc")
def collect_garbage(
    max_size: Annotated[
        str | None, typer.Option("--max-size", metavar="SIZE", help="Remove until it fits.")
    ] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="TIME", help="Remove what is older.")
    ] = None,
    keep_last: Annotated[
        int, typer.Option("--keep-last", min=0, help="Keep so many of the newest.")
    ] = 0,
    delete: Annotated[bool, typer.Option("--delete", help="Remove it, not only show it.")] = False,
    cache: CacheFolder = None,
    json_: Json = False,
) -> None:
    """Show what no recipe, output, pin or running build needs; with --delete remove it."""
    place = the_cache(cache)
    limits = Limits(
        byte_size(max_size) if max_size is not None else None,
        time_span(older_than) if older_than is not None else None,
        keep_last,
    )
    sweep = find_garbage(place, limits)
    if delete:
        sweep = collect(place, sweep)
    for record in sweep.damaged:
        typer.echo(f"warning: '{record}' is damaged: what its recipe needs is not known", err=True)
    typer.echo(json.dumps(sweep_json(sweep), indent=1) if json_ else sweep_text(sweep, delete))


@cache.command("pin")
def pin_(keys: list[str], cache: CacheFolder = None) -> None:
    """Keep checkpoints whatever happens to the recipes that made them."""
    place = the_cache(cache)
    for key in _several(place, keys):
        pin(place, key)
        typer.echo(f"pinned {key}", err=True)


@cache.command("unpin")
def unpin_(keys: list[str], cache: CacheFolder = None) -> None:
    """Keep checkpoints no longer than something needs them."""
    place = the_cache(cache)
    for key in _several(place, keys):
        unpin(place, key)
        typer.echo(f"unpinned {key}", err=True)


def _several(cache: Cache, keys: Sequence[str]) -> list[str]:
    return [_one(cache, key) for key in keys]


def _one(cache: Cache, given: str) -> str:
    """The only key that begins so. Raises UsageError."""
    found = [key for key in cache.all_keys() if key.startswith(given)]
    if len(found) != 1:
        raise UsageError.of(
            f"'{given}' begins {len(found)} keys of the cache '{cache.root}'",
            hint="'mergebuild cache ls' lists them",
        )
    return found[0]
