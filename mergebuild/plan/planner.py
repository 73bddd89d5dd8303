"""Making a plan: the graph in order, sources opened, nodes outlined, freshness decided."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mergebuild.cache import Cache
from mergebuild.errors import Problem, RecipeError, UsageError, did_you_mean
from mergebuild.events import Sink, silent
from mergebuild.graph import build_order, select
from mergebuild.methods.declaration import Method
from mergebuild.plan.costs import costs_of
from mergebuild.plan.families import Sorting
from mergebuild.plan.freshness import Decisions
from mergebuild.plan.kinds import outline_any
from mergebuild.plan.leaves import open_leaves
from mergebuild.plan.model import Plan, Settings
from mergebuild.plan.node import Outlined
from mergebuild.plan.outline import Outline
from mergebuild.plan.vocabularies import Vocabularies
from mergebuild.recipe import ModelRef, NodeRef, Recipe, Source
from mergebuild.remote import Remotes


def make_plan(
    recipe: Recipe,
    *,
    cache: Cache,
    methods: Mapping[str, Method],
    selectors: Sequence[str] = (),
    outputs: Mapping[str, Path] | None = None,
    settings: Settings | None = None,
    anew: Collection[str] = (),
    remotes: Remotes | None = None,
    sink: Sink = silent,
) -> Plan:
    """Decide what a build of `recipe` has to do.

    `selectors` choose nodes as `graph.select` reads them, default: the outputs. `outputs` says
    where nodes are published, over what the recipe says. Nodes in `anew` are made whatever is
    cached of them. What `remotes` hold is fetched rather than computed.

    Raises RecipeError (the recipe does not fit its sources), CheckpointError (a source is
    damaged), UsageError (a selector or output names no node).
    """
    settings = settings or Settings()
    targets = select(recipe, selectors) if selectors else set(recipe.outputs)
    order = build_order(recipe, targets)
    places = _places(recipe, outputs or {}, targets)
    references = [r for name in order for r in recipe.nodes[name].references()]
    leaves = open_leaves(
        recipe, (r for r in references if isinstance(r, Source)), cache, settings, sink
    )
    outlined = _outline_all(
        recipe, methods, order, {source: leaf.outline for source, leaf in leaves.items()}
    )
    remotes = remotes if remotes is not None else Remotes()
    decisions = Decisions(
        recipe, cache, outlined, leaves, places, settings.shard_size, anew, remotes
    )
    nodes = decisions.decide(order, targets)
    return Plan(
        recipe=recipe,
        cache=cache,
        nodes=nodes,
        leaves=leaves,
        targets=tuple(name for name in order if name in targets),
        settings=settings,
        costs=costs_of(nodes, settings.threads, settings.elements),
        remotes=remotes,
    )


def _places(
    recipe: Recipe, overrides: Mapping[str, Path], targets: Collection[str]
) -> dict[str, Path]:
    for name in overrides:
        if name not in recipe.nodes:
            raise UsageError.of(
                f"--out: no node '{name}'", hint=did_you_mean(name, list(recipe.nodes))
            )
    places = {name: place for name, place in recipe.outputs.items() if place is not None}
    places.update(overrides)
    taken: dict[Path, str] = {}
    for name, place in places.items():
        other = taken.setdefault(place.resolve(), name)
        if other != name:
            raise UsageError.of(f"nodes '{other}' and '{name}' have the same output '{place}'")
    return {name: place for name, place in places.items() if name in targets}


def _outline_all(
    recipe: Recipe,
    methods: Mapping[str, Method],
    order: Sequence[str],
    leaves: Mapping[ModelRef, Outline],
) -> dict[str, Outlined]:
    """Every node outlined; misfits of nodes that do not use each other are reported together."""
    outlines = dict(leaves)
    outlined: dict[str, Outlined] = {}
    problems: list[Problem] = []
    vocabularies, sorting = Vocabularies(), Sorting()
    for name in order:
        node = recipe.nodes[name]
        if any(r not in outlines for r in node.references()):
            continue
        try:
            outlined[name] = outline_any(
                node, methods, outlines, vocabularies, sorting, recipe.native
            )
        except RecipeError as error:
            problems.extend(error.problems)
        else:
            outlines[NodeRef(name)] = outlined[name].outline
    if problems:
        raise RecipeError(*problems)
    return outlined
