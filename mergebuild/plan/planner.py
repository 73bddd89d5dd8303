"""Making a plan: the graph in order, sources opened, nodes outlined, freshness decided."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mergebuild.cache import Cache
from mergebuild.checkpoint.contents import Contents
from mergebuild.errors import Problem, RecipeError, UsageError, did_you_mean
from mergebuild.events import Sink, silent
from mergebuild.graph import build_order, select
from mergebuild.methods.declaration import Method
from mergebuild.plan.costs import costs_of
from mergebuild.plan.families import Sorting
from mergebuild.plan.freshness import Decisions
from mergebuild.plan.kinds import outline_any
from mergebuild.plan.leaves import open_leaves, read_leaves
from mergebuild.plan.model import Leaf, Plan, Settings
from mergebuild.plan.node import Outlined
from mergebuild.plan.outline import Outline, Unread
from mergebuild.plan.provisional import unlike_all
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
    provisional: bool = False,
    sink: Sink = silent,
) -> Plan:
    """Decide what a build of `recipe` has to do.

    `selectors` choose nodes as `graph.select` reads them, default: the outputs. `outputs` says
    where nodes are published, over what the recipe says. Nodes in `anew` are made whatever is
    cached of them. What `remotes` hold is fetched rather than computed. A plan may be `provisional`
    where nobody has read its sources and nothing that is there can be what it asks for.

    Raises RecipeError (the recipe does not fit its sources), CheckpointError (a source is
    damaged), UsageError (a selector or output names no node).
    """
    settings = settings or Settings()
    targets = select(recipe, selectors) if selectors else set(recipe.outputs)
    order = build_order(recipe, targets)
    places = _places(recipe, outputs or {}, targets)
    references = [r for name in order for r in recipe.nodes[name].references()]
    contents = Contents() if provisional else None
    leaves = open_leaves(
        recipe, (r for r in references if isinstance(r, Source)), cache, settings, sink, contents
    )
    remotes = remotes if remotes is not None else Remotes()
    planning = _Planning(recipe, cache, methods, order, targets, places, settings, anew, remotes)
    if contents is None:
        return planning.plan(leaves)
    with suppress(Unread):
        plan = replace(planning.plan(leaves), contents=contents)
        if not plan.provisional or unlike_all(plan, contents):
            return plan
    return planning.plan(read_leaves(leaves, cache, settings, sink, contents))


def plan_again(plan: Plan, methods: Mapping[str, Method], sink: Sink) -> Plan:
    """The same, of the cache and the sources as they are now."""
    return make_plan(
        plan.recipe,
        cache=plan.cache,
        methods=methods,
        selectors=plan.targets,
        outputs=_outputs(plan),
        settings=plan.settings,
        remotes=plan.remotes,
        sink=sink,
    )


def settle(plan: Plan, methods: Mapping[str, Method], sink: Sink) -> Plan:
    """A provisional plan with its true keys, of the same sources; what of them is still unread is
    read. What it wanted is wanted still. Raises CheckpointError for sources that changed."""
    assert plan.contents is not None
    leaves = read_leaves(plan.leaves, plan.cache, plan.settings, sink, plan.contents)
    targets = set(plan.targets)
    planning = _Planning(
        plan.recipe,
        plan.cache,
        methods,
        list(plan.nodes),
        targets,
        _places(plan.recipe, _outputs(plan), targets),
        plan.settings,
        [name for name, node in plan.nodes.items() if node.wanted],
        plan.remotes,
    )
    return planning.plan(leaves)


def _outputs(plan: Plan) -> dict[str, Path]:
    return {name: n.output.path for name, n in plan.nodes.items() if n.output is not None}


@dataclass(frozen=True, slots=True)
class _Planning:
    """All that a plan follows from but the sources."""

    recipe: Recipe
    cache: Cache
    methods: Mapping[str, Method]
    order: Sequence[str]
    targets: Collection[str]
    places: Mapping[str, Path]
    settings: Settings
    anew: Collection[str]
    remotes: Remotes

    def plan(self, leaves: Mapping[Source, Leaf]) -> Plan:
        """Raises RecipeError, or Unread where it turns on what nobody has read."""
        outlined = _outline_all(
            self.recipe,
            self.methods,
            self.order,
            {source: leaf.outline for source, leaf in leaves.items()},
        )
        decisions = Decisions(
            self.recipe,
            self.cache,
            outlined,
            leaves,
            self.places,
            self.settings.shard_size,
            self.anew,
            self.remotes,
        )
        nodes = decisions.decide(self.order, self.targets)
        return Plan(
            recipe=self.recipe,
            cache=self.cache,
            nodes=nodes,
            leaves=leaves,
            targets=tuple(name for name in self.order if name in self.targets),
            settings=self.settings,
            costs=costs_of(nodes, self.settings.threads, self.settings.elements),
            remotes=self.remotes,
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
            found = outline_any(node, methods, outlines, vocabularies, sorting, recipe.native)
        except RecipeError as error:
            problems.extend(error.problems)
        else:
            if any(outlines[r].provisional for r in node.references()):
                found = replace(found, outline=replace(found.outline, provisional=True))
            outlined[name] = found
            outlines[NodeRef(name)] = outlined[name].outline
    if problems:
        raise RecipeError(*problems)
    return outlined
