"""The program as a library: make a plan, look at it, build it.

import mergebuild as mb

plan = mb.plan("recipe.yaml")
mb.build(plan)
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache as once
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mergebuild.cache import Cache
from mergebuild.engine.options import Options
from mergebuild.errors import Location, Problem, UsageError
from mergebuild.events import BuildFinished, Event, Sink, silent, to_json
from mergebuild.files import make_directories, new_file
from mergebuild.kernels.choose import check_device
from mergebuild.methods import registry
from mergebuild.plan import Plan, Settings, make_plan
from mergebuild.plan.opening import HUB
from mergebuild.recipe import Recipe, load_recipe
from mergebuild.recipe.origin import Fetch, Fetched, Origin
from mergebuild.remote import Remotes
from mergebuild.share.lock.beside import lock_of, lock_path
from mergebuild.site import Remote, Site, load_site

if TYPE_CHECKING:
    from mergebuild.plan.looking import Looked
    from mergebuild.share.lock.model import Lock

CACHE_VARIABLE: Final = "MERGEBUILD_CACHE"


def default_cache(site: Site | None = None) -> Path:
    """`MERGEBUILD_CACHE`, else what the site file says, else `cache` in the working directory."""
    if said := os.environ.get(CACHE_VARIABLE):
        return Path(said)
    return (site or load_site()).cache or Path("cache")


def settings_of(
    site: Site | None = None,
    *,
    jobs: int | None = None,
    chunk: int | None = None,
    shard_size: int | None = None,
    device: str | None = None,
    offline: bool = False,
) -> Settings:
    """How to build: what is given, else what the site file says. `chunk` counts blocks of 65,536
    elements. A site file does not choose the device: it may be there for machines that differ."""
    said, usual = (site or load_site()).defaults, Settings()
    blocks = chunk or said.chunk
    return Settings(
        jobs=jobs if jobs is not None else said.jobs or usual.jobs,
        chunk=blocks << 16 if blocks else usual.chunk,
        shard_size=shard_size or said.shard_size or usual.shard_size,
        device=device or usual.device,
        offline=offline,
    )


def load(
    recipe: str | Path,
    *,
    variables: Mapping[str, str] | None = None,
    sources: Mapping[str, str] | None = None,
    strict: bool = False,
    site: Site | None = None,
    lock: Lock | None = None,
    cache: str | Path | None = None,
    offline: bool = False,
    sink: Sink = silent,
) -> Recipe:
    """Read a recipe, and those that it includes, which are kept in the cache. `variables` and
    `sources` are as for `--set` and `--source`; `site` is that of the working directory, and `lock`
    the one beside the recipe, unless they are given.

    Raises RecipeError with every independent mistake, UsageError for overrides that fit nothing,
    CheckpointError for what the Hub refuses.
    """
    path, site = Path(recipe), site or load_site()
    lock = lock or lock_of(path)
    place = Cache(Path(cache) if cache is not None else default_cache(site))
    loaded = load_recipe(
        path,
        variables=variables or {},
        sources=sources or {},
        mirrors=site.sources,
        methods=registry(),
        strict=strict,
        fetch=_fetch(path, place, lock, offline, sink),
    )
    if lock is None:
        return loaded
    from mergebuild.share.lock.text import lock_text

    return replace(loaded, pins=lock.pins, lock=lock_text(lock) if lock.file else None)


def _fetch(path: Path, cache: Cache, lock: Lock | None, offline: bool, sink: Sink) -> Fetch:
    """Fetches what the recipe at `path` includes; what it takes is imported for the first."""

    @once
    def fetcher() -> Fetch:
        from mergebuild.checkpoint.hub import Hub
        from mergebuild.include import Fetcher, Repositories

        hub = Hub(cache.root / HUB, sink, offline=offline)
        repositories = Repositories(cache.root / "git", offline)
        return Fetcher(path.parent, hub, repositories, lock.commits if lock is not None else {})

    def fetch(text: str, origin: Origin, at: Location) -> Fetched:
        return fetcher()(text, origin, at)

    return fetch


def plan(
    recipe: str | Path | Recipe,
    *,
    variables: Mapping[str, str] | None = None,
    sources: Mapping[str, str] | None = None,
    select: Sequence[str] = (),
    outputs: Mapping[str, Path] | None = None,
    cache: str | Path | None = None,
    settings: Settings | None = None,
    strict: bool = False,
    site: Site | None = None,
    lock: Lock | None = None,
    locked: bool = False,
    remotes: Sequence[Remote] | None = None,
    provisional: bool = False,
    sink: Sink = silent,
) -> Plan:
    """Decide what building a recipe takes. Nothing is written but the memo of source digests.

    `select` names nodes (`name`, `+name`, `name+`), default all outputs; `outputs` says where
    nodes are published, over what the recipe says. What `remotes` hold, in their order (default:
    the site's), is fetched rather than computed. What is not as the lock has it is an error if
    the plan is to be `locked`, else a warning. A `provisional` plan may be made before sources
    that nobody has read are, unless there is a lock or a remote: building it reads them once, and
    some of its keys stand for the true ones. Raises MergebuildError, before any source is read if
    `settings` name a device that cannot compute here.
    """
    site = site or load_site()
    settings = settings or settings_of(site)
    check_device(settings.device)
    path = recipe.path if isinstance(recipe, Recipe) else Path(recipe)
    lock = lock or lock_of(path)
    if locked and lock is None:
        raise UsageError.of(
            f"there is no lock '{lock_path(path)}'", hint=f"write it: mergebuild lock {path}"
        )
    if not isinstance(recipe, Recipe):
        recipe = load(
            recipe,
            variables=variables,
            sources=sources,
            strict=strict,
            site=site,
            lock=lock,
            cache=cache,
            offline=settings.offline,
            sink=sink,
        )
    if locked and lock is not None:
        from mergebuild.share.lock.hold import hold_includes

        hold_includes(recipe, lock)
    asked = _reachable(site.remotes if remotes is None else remotes, settings.offline)
    made = make_plan(
        recipe,
        cache=Cache(Path(cache) if cache is not None else default_cache(site)),
        methods=registry(),
        selectors=select,
        outputs=outputs,
        settings=settings,
        remotes=Remotes(asked, sink),
        provisional=provisional and lock is None and not asked,
        sink=sink,
    )
    if lock is not None:
        from mergebuild.share.lock.hold import hold

        hold(made, lock, locked=locked, sink=sink)
    return made


def _reachable(remotes: Sequence[Remote], offline: bool) -> Sequence[Remote]:
    """Those that may be asked: folders, and others unless one is offline."""
    if not remotes or not offline:
        return remotes
    from mergebuild.remote.places import is_local

    return [remote for remote in remotes if is_local(remote.url)]


def locked_anew(
    recipe: str | Path,
    *,
    sources: Mapping[str, str] | None = None,
    update: Collection[str] | None = None,
    cache: str | Path | None = None,
    settings: Settings | None = None,
    site: Site | None = None,
    sink: Sink = silent,
) -> tuple[Lock, list[Problem]]:
    """The lock that a recipe should have, and how the one that it has differs.

    What is locked stays, but for the sources and includes in `update`: all if that is empty, none
    if it is None. Nothing is written. Raises MergebuildError.
    """
    from mergebuild.share.lock.drift import drift
    from mergebuild.share.lock.hold import check_portable, without
    from mergebuild.share.lock.make import make_lock
    from mergebuild.share.lock.model import Lock

    site = site or load_site()
    path = Path(recipe)
    former = lock_of(path) or Lock(file=str(lock_path(path)))
    kept = without(former, update) if update is not None else former
    settings = settings or settings_of(site)
    loaded = load(
        path,
        sources=sources,
        site=site,
        lock=kept,
        cache=cache,
        offline=settings.offline,
        sink=sink,
    )
    if update:
        kept = without(former, update, loaded)
        loaded = replace(loaded, pins=kept.pins)
    made = make_plan(
        loaded,
        cache=Cache(Path(cache) if cache is not None else default_cache(site)),
        methods=registry(),
        selectors=list(dict.fromkeys((*loaded.own_nodes, *loaded.outputs))),
        settings=settings,
        sink=sink,
    )
    check_portable(made)
    lock = make_lock(made, kept, files=True, outputs=True, sink=sink)
    return lock, drift(former, lock, made, nodes=True, whole=True)


def look(
    reference: str,
    *,
    cache: str | Path | None = None,
    settings: Settings | None = None,
    sink: Sink = silent,
) -> Looked:
    """Open a model, `model[@revision][+adapter]`, or an adapter's folder, and say what it is.

    Headers and configs are read, no contents. Raises MergebuildError.
    """
    from mergebuild.plan.looking import look as look_at

    place = Cache(Path(cache) if cache is not None else default_cache())
    return look_at(reference, place, settings or Settings(), sink)


def run_name() -> str:
    """A name for a run that no other has."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.urandom(3).hex()}"


def build(
    plan: Plan, *, options: Options | None = None, locked: bool = False, sink: Sink = silent
) -> BuildFinished:
    """Carry out a plan; a fresh one touches nothing. The run is logged under the cache's `runs/`.
    What was computed is sent to those of the plan's remotes that want it; whether it arrived does
    not matter to the build.

    What was built and is not what the lock says is an error if it is `locked`, else a warning.
    Raises MergebuildError.
    """
    finished = _carried_out(plan, options, sink)
    lock = lock_of(plan.recipe.path)
    if lock is not None:
        from mergebuild.share.lock.hold import hold_outputs

        hold_outputs(plan, lock, locked=locked, sink=sink)
    return finished


def _carried_out(plan: Plan, options: Options | None, sink: Sink) -> BuildFinished:
    run = run_name()
    if plan.fresh:
        return BuildFinished(run, True, 0.0, 0, 0, 0, 0, 0, (), ())
    from mergebuild.engine.rounds import build as carry_out

    with ExitStack() as stack:
        make_directories(plan.cache.runs)
        log = stack.enter_context(new_file(plan.cache.runs / f"{run}.jsonl"))

        def both(event: Event) -> None:
            print(json.dumps(to_json(event)), file=log, flush=True)
            sink(event)

        push = _pusher(plan, both)
        finished = carry_out(plan, methods=registry(), run=run, options=options, sink=both)
        push()
        return finished


def _pusher(plan: Plan, sink: Sink) -> Callable[[], None]:
    """What sends to remotes what was built, with the key to sign with found before that."""
    wanting = [remote for remote in plan.remotes if remote.push]
    if not wanting:
        return lambda: None
    from mergebuild.remote.keyring import own_signer
    from mergebuild.remote.push import Pushing, push

    how = Pushing(own_signer(), jobs=plan.settings.threads)

    def send() -> None:
        for remote in wanting:
            push(plan.cache, _made(plan), remote, plan.remotes.store(remote.name), how, sink)

    return send


def _made(plan: Plan) -> list[str]:
    """The checkpoints of which a build computes something."""
    return [node.key for node in plan.nodes.values() if node.stored and node.compute]
