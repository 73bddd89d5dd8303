"""Which tensors a node puts out, and which tensor of which input each is made from.

Decided from names alone: layers by slice and range, everything beside the layer stacks by the
first or last slice. Parameters, shapes and dtypes are not looked at here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeAlias

from mergebuild.checkpoint.stacks import Stack
from mergebuild.errors import Location, Problem
from mergebuild.methods.declaration import Method
from mergebuild.plan.outline import Outline
from mergebuild.recipe import Input, ModelRef, Module, Node, Slice


@dataclass(frozen=True, slots=True)
class Participant:
    """A model in its place in a slice; `entry` is None for a base that is not listed."""

    model: ModelRef
    outline: Outline
    entry: Input | None
    at: Location


@dataclass(frozen=True, slots=True)
class Cast:
    """The participants of a slice, the base first if `base`."""

    module: Module
    part: Slice
    participants: tuple[Participant, ...]
    base: bool


@dataclass(frozen=True, slots=True)
class Slot:
    """One output tensor: for each participant the tensor it brings, None if it has none.

    `t` is the layer's place in its slice, 0 to 1.
    """

    name: str
    cast: Cast
    names: tuple[str | None, ...]
    t: float


class Misfit(Exception):
    """A node does not fit its inputs; carries the problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def cast_of(
    node: Node, module: Module, part: Slice, method: Method, outlines: Mapping[ModelRef, Outline]
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
        tuple(
            Participant(m, outlines[m], entries.get(m), entries[m].at if m in entries else part.at)
            for m in order
        ),
        base is not None,
    )


def slots(node: Node, groups: list[list[Cast]]) -> Iterator[Slot]:
    """Every output tensor of a node, given the casts of each of its modules.

    Raises Misfit where ranges and layers do not agree.
    """
    covered: set[str] = set()
    for group in groups:
        for row in _rows(node, group):
            covered.update(stack.prefix for stack in row if stack is not None)
            yield from _layers(node, group, row)
    for row in _whole_rows(groups[0][0], covered):
        yield from _layers(node, groups[0][:1], row)
    names = sorted({name for group in groups for cast in group for name in _beside(cast)})
    for name in names:
        group = max(groups, key=lambda group: _kinship(group, name))
        before = group[0].participants[0].outline.layout.position(name) == "before"
        cast = group[0] if before else group[-1]
        owned = tuple(name if name in p.outline.tensors else None for p in cast.participants)
        if any(owned):
            yield Slot(name, cast, owned, 0.0)


def source_layers(node: Node, groups: list[list[Cast]]) -> list[int] | None:
    """For each output layer of the default stack the layer of its first model that it is made
    from; None where every layer is kept in its place.
    """
    for group in groups:
        for row in _rows(node, group):
            stack = row[0]
            if stack is None or stack != group[0].participants[0].outline.layout.default:
                continue
            layers: list[int] = []
            for cast in group:
                start, end = _ranges(node, cast, _row_of(cast, group, row))[0]
                layers.extend(range(start, end))
            return None if layers == list(range(stack.count)) else layers
    return None


Row: TypeAlias = tuple[Stack | None, ...]
"""One layer stack as each participant of a module's first slice has it."""


def _rows(node: Node, group: list[Cast]) -> Iterator[Row]:
    name = group[0].module.name
    if name is None:
        yield from _whole_rows(group[0], set())
        return
    row = tuple(p.outline.layout.lookup(name) for p in group[0].participants)
    for participant, stack in zip(group[0].participants, row, strict=True):
        if stack is None:
            known = ", ".join(s.prefix for s in participant.outline.layout.stacks) or "none"
            raise Misfit(
                Problem(
                    f"node '{node.name}': '{participant.model}' has no layer stack '{name}'",
                    group[0].module.at,
                    f"its layer stacks are: {known}",
                )
            )
    yield row


def _whole_rows(cast: Cast, covered: set[str]) -> Iterator[Row]:
    prefixes = dict.fromkeys(
        stack.prefix for p in cast.participants for stack in p.outline.layout.stacks
    )
    for prefix in prefixes:
        if prefix not in covered:
            yield tuple(p.outline.layout.by_prefix.get(prefix) for p in cast.participants)


def _layers(node: Node, group: list[Cast], first_row: Row) -> Iterator[Slot]:
    prefix = next(stack.prefix for stack in first_row if stack is not None)
    layer = 0
    for cast in group:
        row = _row_of(cast, group, first_row)
        ranges = _ranges(node, cast, row)
        length = max(end - start for start, end in ranges)
        for step in range(length):
            t = step / (length - 1) if length > 1 else 1.0
            inputs = [
                {} if stack is None else p.outline.layout.layer(stack, start + step)
                for p, stack, (start, _) in zip(cast.participants, row, ranges, strict=True)
            ]
            for rest in sorted(set().union(*inputs)):
                names = tuple(layer_names.get(rest) for layer_names in inputs)
                yield Slot(f"{prefix}{layer}.{rest}", cast, names, t)
            layer += 1


def _row_of(cast: Cast, group: list[Cast], first_row: Row) -> Row:
    """The same layer stack as the participants of another slice of the module have it."""
    if cast is group[0]:
        return first_row
    prefix = next(stack.prefix for stack in first_row if stack is not None)
    name = group[0].module.name or prefix
    return tuple(p.outline.layout.lookup(name) for p in cast.participants)


def _ranges(node: Node, cast: Cast, row: Row) -> list[tuple[int, int]]:
    """The layers that each participant brings; an absent stack brings (0, 0)."""
    found: list[tuple[int, int] | None] = []
    for participant, stack in zip(cast.participants, row, strict=True):
        entry = participant.entry
        count = stack.count if stack is not None else 0
        if entry is None:
            found.append(None)
        elif entry.layer_range is None or stack is None:
            found.append((0, count))
        elif entry.layer_range[1] > count:
            raise Misfit(
                Problem(
                    f"node '{node.name}': layer_range {list(entry.layer_range)} goes past the "
                    f"{count} layers of '{participant.model}'",
                    entry.at,
                    f"the last layer is {count - 1}, so the range ends at {count} at the most",
                )
            )
        else:
            found.append(entry.layer_range)
    listed = {span for span in found if span is not None and span != (0, 0)}
    if None in found and len(listed) > 1:
        base = cast.participants[0]
        raise Misfit(
            Problem(
                f"node '{node.name}': the layers that base '{base.model}' brings are not clear, "
                "since the sources have different ranges",
                cast.part.at,
                "list the base among the sources with a layer_range of its own",
            )
        )
    default = listed.pop() if len(listed) == 1 else (0, row[0].count if row[0] else 0)
    spans = [default if span is None else span for span in found]
    if len({end - start for start, end in spans if end > start}) > 1:
        counts = ", ".join(
            f"'{p.model}' {end - start}"
            for p, (start, end) in zip(cast.participants, spans, strict=True)
        )
        raise Misfit(
            Problem(
                f"node '{node.name}': the inputs differ in their number of layers: {counts}",
                cast.part.at,
                "models of different depth can be combined with slices and layer_range",
            )
        )
    return spans


def _beside(cast: Cast) -> Iterator[str]:
    for participant in cast.participants:
        yield from participant.outline.layout.beside


def _kinship(group: list[Cast], name: str) -> int:
    """How many leading parts a name shares with the layer stack of a module."""
    module = group[0].module.name
    layout = group[0].participants[0].outline.layout
    stack = layout.lookup(module) if module is not None else None
    if stack is None:
        return 0
    pairs = zip(stack.prefix.split("."), name.split("."), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
