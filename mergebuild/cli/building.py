"""Commands that plan: build, plan, explain, status."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import mergebuild.api as api
from mergebuild.cli.options import (
    CacheFolder,
    Jobs,
    Json,
    Locked,
    Nodes,
    Offline,
    Outputs,
    RecipeFile,
    RemoteUrls,
    ShardSize,
    Signed,
    Sources,
    Strict,
    Variables,
    byte_size,
    pairs,
    places,
    source_places,
    the_remotes,
)
from mergebuild.cli.sinks import complain, event_sink
from mergebuild.console.plain import json_sink, plain_sink
from mergebuild.console.plans import (
    explain_node,
    explain_tensor,
    plan_json,
    plan_text,
    status_text,
)
from mergebuild.engine.options import Options
from mergebuild.errors import UsageError, did_you_mean
from mergebuild.events import BuildFinished, Sink, Warned, silent
from mergebuild.plan import Plan
from mergebuild.recipe import Recipe
from mergebuild.share.lock.beside import lock_of
from mergebuild.site import Remote, Site, load_site

if TYPE_CHECKING:
    from mergebuild.share.lock.model import Lock

STALE = 3


def _plan(
    recipe: Path,
    nodes: Sequence[str] | None,
    variables: Sequence[str] | None,
    sources: Sequence[str] | None,
    out: Sequence[str] | None,
    cache: Path | None,
    strict: bool,
    jobs: int | None = None,
    chunk: int | None = None,
    shard_size: str | None = None,
    device: str | None = None,
    locked: bool = False,
    offline: bool = False,
    sink: Sink = silent,
    remotes: Sequence[Remote] = (),
    provisional: bool = False,
) -> Plan:
    site = load_site()
    size = byte_size(shard_size) if shard_size is not None else None
    settings = api.settings_of(
        site, jobs=jobs, chunk=chunk, shard_size=size, device=device, offline=offline
    )
    lock = lock_of(recipe)
    loaded = _load(recipe, variables, sources, strict, site, lock, cache, offline, sink)
    return api.plan(
        loaded,
        select=nodes or (),
        outputs=places(out, list(loaded.outputs)),
        cache=cache,
        settings=settings,
        site=site,
        lock=lock,
        locked=locked,
        remotes=remotes,
        provisional=provisional,
        sink=sink,
    )


def _load(
    recipe: Path,
    variables: Sequence[str] | None,
    sources: Sequence[str] | None,
    strict: bool,
    site: Site,
    lock: Lock | None,
    cache: Path | None,
    offline: bool,
    sink: Sink,
) -> Recipe:
    loaded = api.load(
        recipe,
        variables=pairs("--set", variables),
        sources=source_places(sources),
        strict=strict,
        site=site,
        lock=lock,
        cache=cache,
        offline=offline,
        sink=sink,
    )
    for warning in loaded.warnings:
        sink(Warned(warning.render("warning")))
    return loaded


def build(
    recipe: RecipeFile,
    nodes: Nodes = None,
    set_: Variables = None,
    source: Sources = None,
    out: Outputs = None,
    cache: CacheFolder = None,
    remote: RemoteUrls = None,
    require_signatures: Signed = False,
    jobs: Jobs = None,
    chunk: Annotated[
        int | None,
        typer.Option(
            min=1, help="Blocks of 65,536 elements evaluated at a time (default 8, on a GPU 32)."
        ),
    ] = None,
    shard_size: ShardSize = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="cpu|cuda|cuda:N", help="Where to compute (default cpu)."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace folders that mergebuild did not write.")
    ] = False,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Let NaN and infinite values through.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Build what was built again beside it, and compare the bits."),
    ] = False,
    strict: Strict = False,
    locked: Locked = False,
    offline: Offline = False,
    json_: Json = False,
) -> None:
    """Bring the outputs, or the given nodes, up to date; do nothing that was done before."""
    if check:
        from mergebuild.cli.comparing import compared_nodes, compared_output, tell

        site = load_site()
        settings = api.settings_of(site, jobs=jobs, chunk=chunk, device=device, offline=offline)
        if recipe.is_dir():
            compared = compared_output(recipe, source, cache, settings, site, json_)
        else:
            loaded = _load(recipe, set_, source, strict, site, None, cache, offline, silent)
            options = Options(force, allow_nonfinite)
            compared = compared_nodes(loaded, nodes, cache, settings, options, site)
        tell(compared, json_)
        return
    if recipe.is_dir():
        raise UsageError.of(
            f"'{recipe}' is a folder, not a recipe",
            hint="with --check, what was published there is built again and compared",
        )
    with ExitStack() as stack:
        sink = event_sink(stack, json_)
        remotes = the_remotes(remote, require_signatures)
        plan = _plan(
            recipe, nodes, set_, source, out, cache, strict,
            jobs, chunk, shard_size, device, locked, offline, sink, remotes, True,
        )  # fmt: skip
        homeless = [name for name in plan.targets if plan.recipe.outputs.get(name, Path()) is None]
        for name in homeless:
            if plan.nodes[name].output is None:
                raise UsageError.of(
                    f"'{recipe}' does not say where its output '{name}' goes",
                    hint="use --out DIR",
                )
        notes = [(name, note) for name, node in plan.nodes.items() for note in node.notes]
        for name, note in notes if not plan.fresh else ():
            sink(Warned(f"note: node '{name}': {note}"))
        finished = api.build(
            plan, options=Options(force, allow_nonfinite), locked=locked, sink=sink
        )
    if plan.fresh:
        _fresh(plan, finished, json_)


def _fresh(plan: Plan, finished: BuildFinished, json_: bool) -> None:
    if json_:
        json_sink(print)(finished)
        return
    places = [str(node.output.path) for node in plan.nodes.values() if node.output is not None]
    where = f" ({', '.join(places)})" if places else ""
    complain(f"{', '.join(plan.targets)}: fresh, nothing to do{where}")


def plan(
    recipe: RecipeFile,
    nodes: Nodes = None,
    set_: Variables = None,
    source: Sources = None,
    out: Outputs = None,
    cache: CacheFolder = None,
    remote: RemoteUrls = None,
    require_signatures: Signed = False,
    jobs: Jobs = None,
    shard_size: ShardSize = None,
    strict: Strict = False,
    locked: Locked = False,
    offline: Offline = False,
    json_: Json = False,
) -> None:
    """Show what a build would do, and what it would read, write and need."""
    sink = plain_sink(complain)
    remotes = the_remotes(remote, require_signatures)
    made = _plan(
        recipe, nodes, set_, source, out, cache, strict, jobs,
        shard_size=shard_size, locked=locked, offline=offline, sink=sink, remotes=remotes,
    )  # fmt: skip
    typer.echo(json.dumps(plan_json(made), indent=1) if json_ else plan_text(made))


def explain(
    recipe: RecipeFile,
    node: Annotated[str | None, typer.Argument(help="A node (default: all).")] = None,
    tensor: Annotated[str | None, typer.Argument(help="A tensor of the node.")] = None,
    set_: Variables = None,
    source: Sources = None,
    out: Outputs = None,
    cache: CacheFolder = None,
    strict: Strict = False,
) -> None:
    """Say why nodes are stale, or what a tensor's key is made of."""
    sink = plain_sink(complain)
    made = _plan(recipe, None, set_, source, out, cache, strict, sink=sink)
    if node is None:
        typer.echo("\n\n".join(explain_node(made, name) for name in made.nodes))
        return
    if node not in made.nodes:
        raise UsageError.of(f"no node '{node}'", hint=did_you_mean(node, list(made.nodes)))
    if tensor is None:
        typer.echo(explain_node(made, node))
        return
    tensors = made.nodes[node].expressions
    if tensor not in tensors:
        raise UsageError.of(
            f"node '{node}' has no tensor '{tensor}'", hint=did_you_mean(tensor, list(tensors)[:1])
        )
    typer.echo(explain_tensor(made, node, tensor))


def status(
    recipe: RecipeFile,
    set_: Variables = None,
    source: Sources = None,
    out: Outputs = None,
    cache: CacheFolder = None,
    strict: Strict = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 3 if something is stale.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read the outputs, and tell what differs.")
    ] = False,
    json_: Json = False,
) -> None:
    """Show what is fresh and what is stale."""
    sink = plain_sink(complain)
    made = _plan(recipe, None, set_, source, out, cache, strict, sink=sink)
    typer.echo(json.dumps(plan_json(made), indent=1) if json_ else status_text(made))
    if verify:
        from mergebuild.cli.cache import verify as verify_folders

        places = [node.output.path for node in made.nodes.values() if node.output is not None]
        verify_folders([place for place in places if place.exists()], json_=json_)
    if exit_code and not made.fresh:
        raise typer.Exit(STALE)
