"""What a model reference can mean in a recipe: its nodes, its sources, and what is said over them.

Owns `--source`, mirrors, and what an including recipe gives. Must not know how it is written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from mergebuild.errors import Location, Problem, UsageError, did_you_mean
from mergebuild.recipe.context import Context
from mergebuild.recipe.frame import Frame
from mergebuild.recipe.model import Application, ModelRef, NodeRef, Source
from mergebuild.recipe.spelling import from_root, split


@dataclass(slots=True)
class Names:
    """What a reference can mean, and which aliases and overrides have been met so far.

    `nodes` maps what a node is called here to its whole name: in a recipe that is included that
    begins with `prefix`, and sources start from the folder `within` and may be `given` by the
    recipe that includes it. `mirrors` are overrides that give way to all others, and that need not
    be met. `applied` are the references `model+adapter` in which one of the two is a node.
    """

    nodes: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, Source] = field(default_factory=dict)
    own_aliases: list[str] = field(default_factory=list)
    prefix: str = ""
    within: str | None = ""
    given: Mapping[str, ModelRef] = field(default_factory=dict)
    met_given: set[str] = field(default_factory=set)
    overrides: Mapping[str, str] = field(default_factory=dict)
    mirrors: Mapping[str, str] = field(default_factory=dict)
    met_aliases: set[str] = field(default_factory=set)
    met_overrides: set[str] = field(default_factory=set)
    literals: dict[str, None] = field(default_factory=dict)
    applied: dict[str, tuple[Application, Location]] = field(default_factory=dict)

    def node(self, name: str, at: Location | None) -> NodeRef:
        """The node that is called so here."""
        self.met_given.add(name)
        return NodeRef(self.nodes[name], at)

    def unmatched(self) -> None:
        """Raises UsageError for overrides that replaced nothing."""
        known = [*self.aliases, *self.literals]
        missed = [key for key in self.overrides if key not in self.met_overrides]
        if missed:
            raise UsageError(
                *(
                    Problem(
                        f"--source {key}={self.overrides[key]}: the recipe has no such source",
                        hint=did_you_mean(key, known),
                    )
                    for key in missed
                )
            )


def names_in(nodes: Collection[str], frame: Frame) -> Names:
    """What a reference can mean in a recipe of these nodes, before its aliases are read."""
    known = {name: frame.prefix + name for name in nodes}
    given = {name: model.name for name, model in frame.given.items() if isinstance(model, NodeRef)}
    return Names(
        nodes={**given, **known},
        prefix=frame.prefix,
        within=frame.origin.within,
        given=frame.given,
        overrides=frame.overrides.sources,
        mirrors=frame.overrides.mirrors,
    )


def aliased(name: str, source: Source, names: Names) -> Source:
    """The source of an alias, after what is said over it by its name or by what is written."""
    whole = names.prefix + name
    source = replace(source, alias=whole, within=names.within)
    found = _instead((name,), names)
    if found is None:
        return replace(overridden(source, names), name=whole)
    lora = overridden(source.lora, names) if source.lora else None
    return _replacement(found, replace(source, lora=lora, name=whole))


def overridden(source: Source, names: Names) -> Source:
    """A literal source, after what is said over it and over its LoRA."""
    source = replace(source, within=names.within)
    if source.lora is not None:
        source = replace(source, lora=overridden(source.lora, names))
    at_revision = f"{source.place}@{source.revision}" if source.revision else source.place
    spellings = tuple(dict.fromkeys((source.name, at_revision, source.place)))
    names.literals.update(dict.fromkeys(spellings))
    found = _instead(spellings, names)
    return source if found is None else _replacement(found, source)


def _instead(spellings: tuple[str, ...], names: Names) -> str | Source | None:
    """What is to stand in the place of a source: `--source`, then the including recipe, then a
    mirror."""
    for spelling in spellings:
        if spelling in names.overrides:
            names.met_overrides.add(spelling)
            names.met_given.update({spelling} & names.given.keys())
            return names.overrides[spelling]
    for spelling in spellings:
        model = names.given.get(spelling)
        if isinstance(model, Source):
            names.met_given.add(spelling)
            return model
    return next((names.mirrors[s] for s in spellings if s in names.mirrors), None)


def _replacement(found: str | Source, source: Source) -> Source:
    """Another source in the place of one: it keeps its name, and its LoRA unless the other has
    one. What a recipe gives is as if it had been written; what the outside says is told apart."""
    if isinstance(found, Source):
        lora, name = found.lora or source.lora, source.name
        return replace(found, lora=lora, name=name, at=source.at, alias=source.alias)
    problems = Context()
    at = source.at or Location("--source", 1, 1)
    new = split(found, at, problems)
    if new is None:
        raise UsageError(*(replace(problem, at=None, hint=None) for problem in problems.problems))
    first = source.written is None
    place = from_root(source.within, source.place) if source.within else source.place
    return replace(
        new,
        lora=new.lora or source.lora,
        name=source.name,
        written=place if first else source.written,
        written_revision=source.revision if first else source.written_revision,
        alias=source.alias,
    )
