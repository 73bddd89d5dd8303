"""Publishing on the Hub: what is fresh, found where it lies."""

from __future__ import annotations

from pathlib import Path

from mergebuild.errors import StaleError, UsageError, did_you_mean
from mergebuild.events import Sink, silent
from mergebuild.methods import registry
from mergebuild.plan import Plan
from mergebuild.share.card import papers
from mergebuild.share.publication import Publication, publication


def node_publication(plan: Plan, name: str | None, *, sink: Sink = silent) -> Publication:
    """A node of a plan (None: its only target), from its output if that is fresh, with the card
    that lies there, else from the cache. Raises StaleError for one that has to be built first."""
    if name is None and len(plan.targets) > 1:
        raise UsageError.of(
            f"the recipe has several outputs: {', '.join(plan.targets)}", hint="name one of them"
        )
    name = name or plan.targets[0]
    if name not in plan.nodes:
        raise UsageError.of(f"no node '{name}'", hint=did_you_mean(name, list(plan.nodes)))
    node, jobs, lock = plan.nodes[name], plan.settings.threads, plan.recipe.lock
    if node.output is not None and node.output.fresh:
        return publication(node.output.path, None, lock, jobs=jobs, sink=sink)
    if plan.cache.lookup(node.key) is None:
        why = "; ".join(reason.text for reason in node.reasons[:3]) or node.state
        raise StaleError.of(
            f"node '{name}' is stale ({why}): only what is fresh is published",
            hint=f"mergebuild build {plan.recipe.path} {name}",
        )
    told = papers(plan, name, registry())
    return publication(plan.cache.folder(node.key), told, lock, jobs=jobs, sink=sink)


def output_publication(folder: Path, *, jobs: int, sink: Sink = silent) -> Publication:
    """What was published to a folder. Raises CheckpointError if it is not what was built."""
    return publication(folder, None, None, jobs=jobs, sink=sink)
