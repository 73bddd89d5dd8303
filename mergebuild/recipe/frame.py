"""A recipe among those that include it: what its names are worth, and what is said over it.

Owns the limits of composition and its cycles. Must not know what a recipe looks like.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from mergebuild.errors import Location
from mergebuild.methods.declaration import Method
from mergebuild.recipe.context import Context
from mergebuild.recipe.model import ModelRef, Node, Source
from mergebuild.recipe.origin import Fetch, Fetched, Included, Origin
from mergebuild.recipe.overrides import Overrides
from mergebuild.recipe.tree import Entry

DEEPEST: Final = 8
MOST: Final = 64


@dataclass(slots=True)
class Composition:
    """What one recipe is made of: every included recipe, once for each time that it is."""

    fetch: Fetch | None
    methods: Mapping[str, Method]
    included: list[Included] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a recipe stands. `prefix` goes before its nodes' names; `variables` and `given` are
    what the including recipe says over its variables and sources; `stack` are the recipes that led
    here, itself last."""

    composition: Composition
    origin: Origin
    overrides: Overrides
    prefix: str = ""
    variables: Mapping[str, Entry] = field(default_factory=dict)
    given: Mapping[str, ModelRef] = field(default_factory=dict)
    stack: tuple[Origin, ...] = ()

    def fetch(self, reference: str, namespace: str, at: Location, ctx: Context) -> Fetched:
        """The recipe that a reference here means. What cannot be followed ends reading."""
        composition = self.composition
        if composition.fetch is None:
            ctx.fatal("a recipe that includes others cannot be read here", at)
        if len(composition.included) >= MOST:
            ctx.fatal(f"more than {MOST} recipes are included", at, "include less")
        if len(self.stack) >= DEEPEST:
            ctx.fatal(f"includes are nested more than {DEEPEST} deep", at, "include less deeply")
        found = composition.fetch(reference, self.origin, at)
        key = (found.origin.base, found.origin.path)
        names = [(one.base, one.path) for one in self.stack]
        if key in names:
            ring = [*self.stack[names.index(key) :], found.origin]
            said = " -> ".join(one.file for one in ring)
            ctx.fatal(f"the includes form a cycle: {said}", at, "a recipe cannot include itself")
        composition.included.append(Included(self.prefix + namespace, found))
        return found

    def inner(
        self,
        namespace: str,
        origin: Origin,
        variables: Mapping[str, Entry],
        given: Mapping[str, ModelRef],
    ) -> Frame:
        """The frame of a recipe that is included here."""
        return replace(
            self,
            origin=origin,
            overrides=self.overrides.below(namespace),
            prefix=f"{self.prefix}{namespace}.",
            variables=variables,
            given=given,
            stack=(*self.stack, origin),
        )


def alone(
    path: Path,
    methods: Mapping[str, Method],
    overrides: Overrides | None = None,
    fetch: Fetch | None = None,
) -> Frame:
    """The frame of a recipe that nothing includes."""
    origin = Origin("", path.name, str(path))
    composition = Composition(fetch, methods)
    return Frame(composition, origin, overrides or Overrides(), stack=(origin,))


@dataclass(frozen=True, slots=True)
class Part:
    """What a recipe brings: its nodes under their whole names, and what whoever includes it calls
    its nodes and sources. `met` are the overrides of sources that fit it."""

    nodes: Mapping[str, Node]
    names: Mapping[str, str]
    aliases: Mapping[str, Source]
    met: frozenset[str] = frozenset()
