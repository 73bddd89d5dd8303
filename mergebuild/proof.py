"""Proof that a checkpoint is what it says: it is made again, and compared bit by bit.

A node in the cache is made again from its recipe, a published one from what it records alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from mergebuild.api import default_cache, run_name, settings_of
from mergebuild.cache import Cache, read_manifest
from mergebuild.engine.check import Comparison
from mergebuild.engine.check import check as compare_anew
from mergebuild.engine.options import Options
from mergebuild.errors import BuildError, UsageError, did_you_mean
from mergebuild.events import Sink, Warned, silent
from mergebuild.kernels.choose import check_device
from mergebuild.methods import registry
from mergebuild.plan import Settings, make_plan
from mergebuild.recipe import Recipe
from mergebuild.share.recorded import check_origin, node_of, recipe_of, recorded
from mergebuild.site import Site, load_site


def check(
    recipe: Recipe,
    node: str,
    *,
    cache: str | Path | None = None,
    settings: Settings | None = None,
    options: Options | None = None,
    site: Site | None = None,
    sink: Sink = silent,
) -> Comparison:
    """Build a node that is in the cache once more, beside it, and compare the bits. Nothing is
    published. Raises MergebuildError."""
    if node not in recipe.nodes:
        raise UsageError.of(f"no node '{node}'", hint=did_you_mean(node, list(recipe.nodes)))
    site = site or load_site()
    settings = settings or settings_of(site)
    check_device(settings.device)
    plan = make_plan(
        recipe,
        cache=Cache(Path(cache) if cache is not None else default_cache(site)),
        methods=registry(),
        selectors=[node],
        settings=settings,
        anew=[node],
        sink=sink,
    )
    former = plan.cache.lookup(plan.nodes[node].key)
    if former is None:
        raise BuildError.of(
            f"node '{node}' is not in the cache: there is nothing to compare with",
            hint="build it first",
        )
    return compare_anew(
        plan,
        node,
        plan.cache.folder(plan.nodes[node].key),
        former,
        methods=registry(),
        run=run_name(),
        options=options or Options(),
        sink=sink,
    )


def check_output(
    folder: str | Path,
    *,
    sources: Mapping[str, str] | None = None,
    cache: str | Path | None = None,
    settings: Settings | None = None,
    site: Site | None = None,
    sink: Sink = silent,
) -> Comparison:
    """Build what lies in a folder once more, with all that it is made from, and compare the bits.

    Sources are found where the manifest says that they came from on the Hub, else where the recipe
    says; `sources` are as for `--source`. Nothing is published. Raises MergebuildError.
    """
    folder, site = Path(folder), site or load_site()
    manifest = read_manifest(folder)
    if manifest is None:
        raise UsageError.of(
            f"'{folder}' was not built by mergebuild", hint="name an output, or a recipe"
        )
    said = recorded(manifest.provenance, str(folder))
    recipe = recipe_of(said, folder, registry(), sources=sources or {}, mirrors=site.sources)
    name = node_of(recipe, manifest, str(folder))
    settings = settings or settings_of(site)
    check_device(settings.device)
    plan = make_plan(
        recipe,
        cache=Cache(Path(cache) if cache is not None else default_cache(site)),
        methods=registry(),
        selectors=[name],
        outputs={},
        settings=settings,
        anew=list(recipe.nodes),
        sink=sink,
    )
    for change in check_origin(plan, name, manifest):
        sink(Warned(f"warning: '{folder}' was built otherwise: {change}"))
    for package in ("mergebuild", "torch"):
        was = manifest.versions.get(package)
        if was != version(package):
            sink(Warned(f"note: '{folder}' was built with {package} {was}"))
    if said.device.partition(":")[0] != settings.device.partition(":")[0]:
        sink(Warned(f"note: '{folder}' was computed on {said.device}"))
    return compare_anew(
        plan,
        name,
        folder,
        manifest,
        methods=registry(),
        run=run_name(),
        options=Options(allow_nonfinite=said.allow_nonfinite),
        sink=sink,
    )
