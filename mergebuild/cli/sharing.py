"""Commands that share: push, pull, keys."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

import mergebuild.api as api
from mergebuild.cache import Cache
from mergebuild.cli.options import (
    CacheFolder,
    Jobs,
    Json,
    Nodes,
    RemoteUrls,
    Signed,
    Sources,
    Variables,
    pairs,
    source_places,
    the_cache,
    the_remotes,
)
from mergebuild.cli.sinks import event_sink
from mergebuild.console.sharing import keys_text
from mergebuild.errors import UsageError
from mergebuild.events import Shared, Sink, Warned
from mergebuild.plan import Plan, Settings
from mergebuild.remote import Remotes
from mergebuild.remote.claim import is_key
from mergebuild.remote.keyring import (
    default_name,
    make_key,
    own_keys,
    own_signer,
    trust,
    trusted_files,
    trusted_keys,
)
from mergebuild.remote.pull import pull as pull_checkpoint
from mergebuild.remote.push import Pushing
from mergebuild.remote.push import push as push_checkpoints
from mergebuild.remote.signature import check_name, read_public

FAILED = 1
_LINE_LARGEST = 1 << 12

keys = typer.Typer(
    help="Keys to sign with, and keys to trust.", no_args_is_help=True, rich_markup_mode=None
)

Target = Annotated[str, typer.Argument(help="A recipe, or the key of a checkpoint.")]


def push(
    target: Target,
    nodes: Nodes = None,
    remote: RemoteUrls = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Read what is there, and replace what is damaged.")
    ] = False,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Do not sign, though there is a key.")
    ] = False,
    set_: Variables = None,
    source: Sources = None,
    cache: CacheFolder = None,
    jobs: Jobs = None,
    json_: Json = False,
) -> None:
    """Put checkpoints of the cache on remotes: a recipe's, those of the given nodes, or one."""
    remotes = the_remotes(remote)
    if not remotes:
        raise UsageError.of("there is no remote to push to", hint="say --remote URL")
    signer = None if unsigned else own_signer()
    how = Pushing(signer, repair, Settings(jobs or 0).threads)
    place = the_cache(cache)
    with ExitStack() as stack:
        sink = event_sink(stack, json_)
        chosen = _chosen(target, nodes, set_, source, place, sink, needed=place)
        outcomes = [
            outcome
            for each in remotes
            for outcome in push_checkpoints(
                place, chosen, each, Remotes(remotes).store(each.name), how, sink
            )
        ]
    _check_all(outcomes)


def pull(
    target: Target,
    nodes: Nodes = None,
    remote: RemoteUrls = None,
    require_signatures: Signed = False,
    set_: Variables = None,
    source: Sources = None,
    cache: CacheFolder = None,
    json_: Json = False,
) -> None:
    """Bring checkpoints from remotes into the cache: a recipe's outputs, the given nodes', or one.

    'build' fetches by itself what it needs."""
    found = the_remotes(remote, require_signatures)
    if not found:
        raise UsageError.of("there is no remote to pull from", hint="say --remote URL")
    place = the_cache(cache)
    with ExitStack() as stack:
        sink = event_sink(stack, json_)
        chosen = _chosen(target, nodes, set_, source, place, sink)
        remotes = Remotes(found, sink)
        outcomes = [
            pull_checkpoint(place, key, remotes, run=api.run_name(), sink=sink) for key in chosen
        ]
    _check_all(outcomes)


def _check_all(outcomes: Iterable[Shared]) -> None:
    """Exit with 1 if any failed."""
    if any(outcome.how == "failed" for outcome in outcomes):
        raise typer.Exit(FAILED)


def _chosen(
    target: str,
    nodes: Sequence[str] | None,
    variables: Sequence[str] | None,
    sources: Sequence[str] | None,
    cache: Cache,
    sink: Sink,
    needed: Cache | None = None,
) -> list[str]:
    """The keys that are meant. With `needed` those of all nodes that are cached there, else those
    of the outputs; or of the nodes that are given."""
    if is_key(target) and not Path(target).exists():
        if nodes:
            raise UsageError.of("a key names one checkpoint: there is no node to choose")
        return [target]
    if not Path(target).exists():
        raise UsageError.of(
            f"'{target}' is no recipe and no key of a checkpoint",
            hint="'mergebuild cache ls' lists the keys here; they have 32 digits",
        )
    plan = api.plan(
        target,
        variables=pairs("--set", variables),
        sources=source_places(sources),
        select=nodes or (),
        cache=cache.root,
        sink=sink,
    )
    for warning in plan.recipe.warnings:
        sink(Warned(warning.render("warning")))
    if needed is None:
        return [plan.nodes[name].key for name in plan.targets]
    names = plan.targets if nodes else tuple(plan.nodes)
    return _built(plan, names, needed, target)


def _built(plan: Plan, names: Sequence[str], cache: Cache, recipe: str) -> list[str]:
    """The keys of the nodes that are in the cache. Raises UsageError if a target is not."""
    there = [name for name in names if cache.lookup(plan.nodes[name].key) is not None]
    for name in plan.targets:
        if name not in there:
            raise UsageError.of(
                f"node '{name}' is not in the cache as the recipe has it now",
                hint=f"mergebuild build {recipe}",
            )
    return [plan.nodes[name].key for name in there]


@keys.callback()
def _keys() -> None:
    """Keys to sign with, and keys to trust."""


@keys.command("new")
def new(
    name: Annotated[str | None, typer.Argument(help="Its name (default: user@host).")] = None,
) -> None:
    """Make a key to sign with; what others need to trust it goes to standard output."""
    path, public = make_key(check_name(name or default_name()))
    typer.echo(f"wrote {path}, for you alone; others trust its public half:", err=True)
    typer.echo(public.line)


@keys.command("trust")
def trust_(
    key: Annotated[str, typer.Argument(help="A public key's line, or a file with one.")],
    user: Annotated[
        bool, typer.Option("--user", help="For all projects of this user, not this one only.")
    ] = False,
) -> None:
    """Trust a public key: what it signs counts on remotes that require signatures."""
    path = Path(key)
    line, where = key, "the key"
    if len(key.split()) == 1:
        try:
            with open(path, "rb") as file:
                line, where = file.read(_LINE_LARGEST).decode().strip(), f"'{path}'"
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError.of(
                f"cannot read '{key}': {error}", hint="give the line in quotes, or a file with it"
            ) from error
    public = read_public(line, where)
    project, own = trusted_files()
    target = own if user else project
    new_one = trust(public, target)
    how = "trusted from now on" if new_one else "trusted already"
    typer.echo(f"{public.name} ({public.fingerprint}): {how}, in {target}", err=True)


@keys.command("list")
def list_(json_: Json = False) -> None:
    """List the keys to sign with, and those that are trusted here."""
    mine, trusted = own_keys(), list(trusted_keys().values())
    if json_:
        rows = {
            "own": [{"name": k.name, "fingerprint": k.fingerprint, "line": k.line} for k in mine],
            "trusted": [
                {"name": k.name, "fingerprint": k.fingerprint, "line": k.line} for k in trusted
            ],
        }
        typer.echo(json.dumps(rows, indent=1))
    else:
        typer.echo(keys_text(mine, trusted))
