"""Who takes part in a slice of a node, in which order and under which names.

Decided from the recipe and from names alone; nothing of tensors but that they are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from mergebuild.errors import Location, Problem
from mergebuild.methods.declaration import Method
from mergebuild.plan.naming import Naming
from mergebuild.plan.outline import Operands, Outline
from mergebuild.recipe import Input, ModelRef, Module, Node, Slice


@dataclass(frozen=True, slots=True)
class Participant:
    """A model in its place in a slice, `called` so by `operands`; `entry` is None for a base that
    is not listed."""

    model: ModelRef
    called: str
    naming: Naming
    operands: Operands
    entry: Input | None
    at: Location

    @property
    def outline(self) -> Outline:
        return self.naming.outline


@dataclass(frozen=True, slots=True)
class Cast:
    """The participants of a slice, the base first if `base`."""

    module: Module
    part: Slice
    participants: tuple[Participant, ...]
    base: bool


class Misfit(Exception):
    """A node does not fit its inputs; carries the problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def cast_of(
    node: Node, module: Module, part: Slice, method: Method, namings: Mapping[ModelRef, Naming]
) -> Cast:
    """Who takes part in a slice, in which order."""
    base = (part.base or node.base) if method.base != "ignored" else None
    entries = {entry.model: entry for entry in part.inputs}
    order = [model for model in entries if model != base]
    if base is not None:
        order.insert(0, base)
    return Cast(
        module,
        part,
        tuple(_participant(m, namings[m], entries.get(m), part) for m in order),
        base is not None,
    )


def _participant(model: ModelRef, naming: Naming, entry: Input | None, part: Slice) -> Participant:
    called = str(model)
    at = entry.at if entry is not None else part.at
    return Participant(model, called, naming, naming.outline.operands(called), entry, at)


def pattern_of(node: Node, method: Method) -> ModelRef:
    """The model whose config and names the output gets: the base, else the first input."""
    first = node.modules[0].slices[0]
    base = first.base if method.base != "ignored" else None
    return node.base or base or first.inputs[0].model


def whole(cast: Cast) -> Cast:
    """The same participants with all their layers."""
    return replace(
        cast,
        participants=tuple(
            replace(p, entry=replace(p.entry, layer_range=None) if p.entry is not None else None)
            for p in cast.participants
        ),
    )


def beside(cast: Cast) -> Iterator[str]:
    """The tensors beside the layer stacks, by their names in the output; repetitions included."""
    for participant in cast.participants:
        yield from participant.naming.layout.beside
