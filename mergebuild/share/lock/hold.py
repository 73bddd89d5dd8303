"""Holding a build to a lock: before it, what it is made of; after it, what it made.

A drift is an error where the lock binds (`--locked`), else a warning.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from mergebuild.errors import DriftError, Location, Problem, UsageError, did_you_mean
from mergebuild.events import Sink, Warned
from mergebuild.plan import Plan, part_reference
from mergebuild.recipe import Recipe, Source
from mergebuild.share.lock.drift import drift, drift_of_includes
from mergebuild.share.lock.make import locked_includes, make_lock, output_content
from mergebuild.share.lock.model import Lock


def hold_includes(recipe: Recipe, lock: Lock) -> None:
    """Compare the recipes that one includes with its lock, before anything of them is used.
    Raises DriftError."""
    problems = list(drift_of_includes(lock, locked_includes(recipe), whole=False))
    if problems:
        raise DriftError(*problems)


def hold(plan: Plan, lock: Lock, *, locked: bool, sink: Sink) -> None:
    """Compare what a plan reads and makes with its lock. Raises DriftError if it is `locked`.

    Only then files are read for their SHA-256; else what the plan knows has to do. Where variables
    were set from outside, nodes are others than the lock's, and only what they are made of counts.
    """
    found = make_lock(plan, lock, files=locked, outputs=False, sink=sink)
    nodes = not plan.recipe.variables
    _tell(drift(lock, found, plan, nodes=nodes, whole=False), plan, locked, sink)


def hold_outputs(plan: Plan, lock: Lock, *, locked: bool, sink: Sink) -> None:
    """Compare what was built with what the lock says it was. Raises DriftError if `locked`."""
    problems = []
    for name, node in plan.nodes.items():
        known = lock.nodes.get(name)
        if known is None or known.output is None or known.key != node.key:
            continue
        manifest = plan.cache.lookup(node.key) if node.stored else None
        content = output_content(manifest) if manifest is not None else None
        if content not in (None, known.output.content):
            said = f"expected {known.output.content}, found {content}"
            problems.append(Problem(f"node '{name}': the content of its output: {said}", known.at))
    _tell(problems, plan, locked, sink)


def _tell(problems: list[Problem], plan: Plan, locked: bool, sink: Sink) -> None:
    if not problems:
        return
    hint = f"if it is meant: mergebuild lock {plan.recipe.path}"
    if locked:
        raise DriftError(*problems[:-1], replace(problems[-1], hint=hint))
    first, more = problems[0], len(problems) - 1
    text = f"the lock is out of date: {first.message}" + (f", and {more} more" if more else "")
    sink(Warned(Problem(text, first.at, hint).render("warning")))


def without(lock: Lock, names: Collection[str], recipe: Recipe | None = None) -> Lock:
    """A lock that has yet to say what these sources or includes are; all of them, if none is named.

    A source is named as in the lock or, with its `recipe` at hand, by its alias. Without it names
    that are not found are left for later; with it they are a UsageError.
    """
    if not names:
        return Lock(nodes=lock.nodes, file=lock.file)
    aliases = _aliases(recipe) if recipe is not None else {}
    included = [one.namespace for one in recipe.included] if recipe is not None else []
    gone = {name for given in names for name in (given, *aliases.get(given, ()))}
    known = {*lock.sources, *lock.includes, *aliases, *included}
    for given in names:
        if recipe is not None and given not in known:
            raise UsageError.of(
                f"--update: no source '{given}'", hint=did_you_mean(given, sorted(known))
            )
    return replace(
        lock,
        includes={name: one for name, one in lock.includes.items() if name not in gone},
        sources={name: one for name, one in lock.sources.items() if name not in gone},
    )


def _aliases(recipe: Recipe) -> dict[str, list[str]]:
    """How the parts of sources are called in the lock, by what the recipe calls them."""
    found: dict[str, list[str]] = {}
    for node in recipe.nodes.values():
        for source in node.references():
            if isinstance(source, Source):
                parts = [part_reference(source, adapter=source.adapter)]
                parts += [part_reference(source.lora, adapter=True)] if source.lora else []
                for name in filter(None, (str(source), source.alias)):
                    found.setdefault(name, []).extend(parts)
    return found


def check_portable(plan: Plan) -> None:
    """Raises UsageError for sources that only this machine can find: a lock holds no such path."""
    problems = [
        Problem(
            f"source '{leaf.source}' is a path of this machine: a lock cannot name it",
            leaf.source.at if leaf.source.at else Location(str(plan.recipe.path), 1, 1),
            "name it under 'sources:', or make it relative to the recipe",
        )
        for leaf in plan.leaves.values()
        if any(part.reference.lstrip("+").startswith(("/", "~")) for part in leaf.parts)
    ]
    if problems:
        raise UsageError(*problems)
