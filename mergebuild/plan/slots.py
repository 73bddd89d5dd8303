"""Which tensors a node puts out, and which tensor of which input each is made from.

Decided from names alone: layers by slice and range, everything beside the layer stacks by the
first or last slice. Parameters, shapes and dtypes are not looked at here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeAlias

from mergebuild.checkpoint.stacks import Stack, join
from mergebuild.errors import Problem
from mergebuild.plan.cast import Cast, Misfit, Participant, beside, whole
from mergebuild.plan.rows import Row, ranges, row_of, rows, whole_rows, within
from mergebuild.recipe import Node


@dataclass(frozen=True, slots=True)
class Slot:
    """One output tensor: for each participant of the cast at `place` the tensor it brings, by its
    own name for it, None if it has none.

    `t` is the layer's place in its slice, 0 to 1.
    """

    name: str
    place: int
    names: tuple[str | None, ...]
    t: float


Remark: TypeAlias = Callable[[str, str], None]
"""Takes what the user should know, and the tensor that it is about."""


def casts_of(groups: list[list[Cast]]) -> list[Cast]:
    """The casts that slots may have, in their places: all of the modules, and the first one with
    all its layers, which brings what no module speaks of."""
    return [*(cast for group in groups for cast in group), whole(groups[0][0])]


def slots(
    node: Node, groups: list[list[Cast]], casts: Sequence[Cast], remark: Remark
) -> Iterator[Slot]:
    """Every output tensor of a node, given the casts of each of its modules, and all by place.

    Raises Misfit where ranges and layers do not agree.
    """
    owners: dict[str, list[Cast]] = {}
    counts: dict[str, int] = {}
    places = {id(cast): place for place, cast in enumerate(casts)}
    for group in groups:
        for row in rows(node, group):
            owners.update((stack.prefix, group) for stack in row if stack is not None)
            yield from _layers(node, group, row, places, counts, remark)
    first = casts[-1]
    for row in whole_rows(first, owners.keys()):
        yield from _layers(node, [first], row, places, counts, remark)
    for name in sorted({name for group in groups for cast in group for name in beside(cast)}):
        group = _home(groups, name, owners) or [first]
        before = first.participants[0].naming.layout.position(name) == "before"
        cast = group[0] if before else group[-1]
        owned = tuple(p.naming.name(name) for p in cast.participants)
        if any(owned):
            yield Slot(_beside_name(cast, name, counts), places[id(cast)], owned, 0.0)
        else:
            remark("left out: no input of the slice that it belongs to has it", name)
    stacks = {s.prefix for cast in casts for p in cast.participants for s in p.naming.layout.stacks}
    for prefix in sorted(stacks - counts.keys()):
        remark("left out: no input of the first slice has these layers", prefix)


def _home(
    groups: list[list[Cast]], name: str, owners: Mapping[str, list[Cast]]
) -> list[Cast] | None:
    """The module that a tensor beside the layers goes with: the one that is called as a part of its
    name, else that of the nearest stack; None if no module lists that."""
    layout = groups[0][0].participants[0].naming.layout
    for group in groups:
        module = group[0].module.name
        if module is not None and layout.lookup(module) is None and within(name, module):
            return group
    nearest = max(
        layout.stacks,
        key=lambda stack: (_shared(stack.prefix, name), stack == layout.default, stack.size),
        default=None,
    )
    return owners.get(nearest.prefix) if nearest is not None else groups[0]


def _shared(prefix: str, name: str) -> int:
    """How many leading parts two names share."""
    pairs = zip(prefix.split("."), name.split("."), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _beside_name(cast: Cast, name: str, counts: Mapping[str, int]) -> str:
    """The output name of a tensor beside the layers: what is numbered on from the layers of a
    stack comes behind as many as it has now."""
    for participant in cast.participants:
        found = participant.naming.layout.trailing(name)
        if found is not None:
            stack, behind, rest = found
            return join(stack, counts.get(stack.prefix, stack.count) + behind, rest)
    return name


def _layers(
    node: Node,
    group: list[Cast],
    first_row: Row,
    places: Mapping[int, int],
    counts: dict[str, int],
    remark: Remark,
) -> Iterator[Slot]:
    stack = next(stack for stack in first_row if stack is not None)
    layer = 0
    for cast in group:
        row = row_of(cast, group, first_row)
        spans = ranges(node, cast, row)
        length = max(end - start for start, end in spans)
        for step in range(length):
            t = step / (length - 1) if length > 1 else 1.0
            inputs = [
                {} if own is None else _layer(participant, own, start + step, layer, remark)
                for participant, own, (start, _) in zip(cast.participants, row, spans, strict=True)
            ]
            for rest in sorted(set().union(*inputs)):
                names = tuple([layer_names.get(rest) for layer_names in inputs])
                yield Slot(join(stack, layer, rest), places[id(cast)], names, t)
            layer += 1
    counts[stack.prefix] = layer


def _layer(
    participant: Participant, stack: Stack, source: int, place: int, remark: Remark
) -> Mapping[str, str]:
    """What a model brings for the layer at `place`, made from its layer `source`: from the name
    within the layer to its own name.

    Raises Misfit for a first layer that cannot stand elsewhere.
    """
    naming = participant.naming
    there = naming.layout.layer(stack, source)
    if (source == 0) != (place == 0):
        there = whole = dict(there)
        opening, lacking = naming.layout.first_only(stack)
        if place == 0:
            for rest in sorted(opening):
                whole[rest] = naming.layout.layer(stack, 0)[rest]
                remark("only first layers have it: kept from the first", whole[rest])
        if lacking and source == 0:
            raise Misfit(
                Problem(
                    f"the first layer of '{participant.model}' cannot stand at place {place}: it "
                    f"lacks '{min(lacking)}', which all other layers have",
                    participant.at,
                    "such models begin with a layer of their own; leave it at the beginning",
                )
            )
        for rest in sorted(opening if source == 0 else lacking):
            name = whole.pop(rest, None)
            if name is not None:
                where = "only first layers have it" if source == 0 else "first layers have none"
                remark(f"left out: {where}", join(stack, place, rest))
    if naming.own is None:
        return there
    return {rest: own for rest, name in there.items() if (own := naming.name(name)) is not None}
