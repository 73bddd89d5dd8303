"""Which layer stack of each participant belongs together, and which of its layers take part.

Decided from names and the recipe's ranges alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeAlias

from mergebuild.checkpoint.depth import Depth
from mergebuild.checkpoint.stacks import Stack
from mergebuild.errors import Problem
from mergebuild.plan.cast import Cast, Misfit, beside
from mergebuild.recipe import Node

Row: TypeAlias = tuple[Stack | None, ...]
"""One layer stack as each participant of a module's first slice has it."""


def rows(node: Node, group: list[Cast]) -> Iterator[Row]:
    name = group[0].module.name
    if name is None:
        yield from whole_rows(group[0], set())
        return
    row = tuple(p.naming.layout.lookup(name) for p in group[0].participants)
    if not any(row) and any(within(part, name) for part in beside(group[0])):
        _refuse_layers(node, group)
        return
    for participant, stack in zip(group[0].participants, row, strict=True):
        if stack is None:
            stacks = participant.naming.layout.stacks
            known = ", ".join(f"{s.prefix} ({s.role})" for s in stacks) or "none"
            raise Misfit(
                Problem(
                    f"node '{node.name}': '{participant.model}' has no layer stack '{name}'",
                    group[0].module.at,
                    f"its layer stacks are: {known}",
                )
            )
    yield row


def _refuse_layers(node: Node, group: list[Cast]) -> None:
    """A module beside the layer stacks is all or nothing."""
    for cast in group:
        for entry in cast.part.inputs:
            if entry.layer_range is not None:
                raise Misfit(
                    Problem(
                        f"node '{node.name}': module '{cast.module.name}' has no layers that "
                        "layer_range could choose from",
                        entry.at,
                        "list its inputs under `models`",
                    )
                )


def whole_rows(cast: Cast, covered: Collection[str]) -> Iterator[Row]:
    prefixes = dict.fromkeys(
        stack.prefix for p in cast.participants for stack in p.naming.layout.stacks
    )
    for prefix in prefixes:
        if prefix not in covered:
            yield tuple(p.naming.layout.by_prefix.get(prefix) for p in cast.participants)


def row_of(cast: Cast, group: list[Cast], first_row: Row) -> Row:
    """The same layer stack as the participants of another slice of the module have it."""
    if cast is group[0]:
        return first_row
    prefix = next(stack.prefix for stack in first_row if stack is not None)
    name = group[0].module.name or prefix
    return tuple(p.naming.layout.lookup(name) for p in cast.participants)


def ranges(node: Node, cast: Cast, row: Row) -> list[tuple[int, int]]:
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


def depths(node: Node, groups: list[list[Cast]]) -> list[Depth]:
    """The layer stacks of the first model whose layers are not all kept in their places, each with
    the layers of that model that the output's are made from.
    """
    found = []
    for group in groups:
        layout = group[0].participants[0].naming.layout
        for row in rows(node, group):
            stack = row[0]
            if stack is None:
                continue
            layers: list[int] = []
            for cast in group:
                start, end = ranges(node, cast, row_of(cast, group, row))[0]
                layers.extend(range(start, end))
            if layers != list(range(stack.count)):
                found.append(Depth(stack, tuple(layers), stack == layout.default))
    return found


def within(name: str, module: str) -> bool:
    """Whether a tensor is of a module, by its whole path or by a part of it."""
    return f".{module.strip('.')}." in f".{name}"
