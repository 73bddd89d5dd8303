"""The slots of nodes, sorted by what is to be asked of them.

Most tensors are brought by every participant, in one shape and of floating point: of those just the
parameters are to be evaluated. Which they are follows from names, dtypes and shapes, so it is
worked out once for all nodes whose inputs agree in these. Keys and parameters are not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mergebuild.checkpoint.buffers import is_buffer
from mergebuild.checkpoint.dtypes import is_floating, promote
from mergebuild.plan.cast import Cast
from mergebuild.plan.slots import Slot, slots
from mergebuild.recipe import Node


@dataclass(frozen=True, slots=True)
class Family:
    """Slots that all participants of the cast at `place` fill, with weights of one shape.

    `dtype` holds the values of all of them, as far as their dtypes count; `wide` says whether any
    is stored as float64.
    """

    place: int
    shape: tuple[int, ...]
    dtype: str
    wide: bool


@dataclass(frozen=True, slots=True)
class Sorted:
    """The slots of a node. `numbers` says of each which of `families` it is of, None if it is to be
    looked at singly. `remarks` are what the user should know, and the tensor that it is about.
    """

    slots: tuple[Slot, ...]
    numbers: tuple[int | None, ...]
    families: tuple[Family, ...]
    remarks: tuple[tuple[str, str], ...]


class Sorting:
    """What was sorted so far, of one plan."""

    def __init__(self) -> None:
        self._known: dict[object, tuple[Sorted, Sequence[Cast]]] = {}

    def of(self, node: Node, groups: list[list[Cast]], casts: Sequence[Cast]) -> Sorted:
        """The slots of a node, given the casts of each of its modules, and all by place.

        Raises Misfit where ranges and layers do not agree.
        """
        if any(p.naming.own is not None for cast in casts for p in cast.participants):
            return _sorted(node, groups, casts)
        case = tuple([tuple(map(_seen, group)) for group in groups])
        if case not in self._known:  # what a case names by identity lives as long as the casts
            self._known[case] = _sorted(node, groups, casts), casts
        return self._known[case][0]


def _seen(cast: Cast) -> object:
    """All of a cast that slots and families depend on."""
    return cast.module.name, tuple(
        [
            (
                id(p.naming.layout),
                id(p.outline.structure),
                p.entry is not None,
                p.entry.layer_range if p.entry is not None else None,
            )
            for p in cast.participants
        ]
    )


def _sorted(node: Node, groups: list[list[Cast]], casts: Sequence[Cast]) -> Sorted:
    remarks: list[tuple[str, str]] = []

    def remark(message: str, tensor: str) -> None:
        remarks.append((message, tensor))

    found = tuple(slots(node, groups, casts, remark))
    heads = {p.naming.head for cast in casts for p in cast.participants}
    families: dict[Family, int] = {}
    numbers: list[int | None] = []
    for slot in found:
        family = _family(slot, casts[slot.place]) if slot.name not in heads else None
        numbers.append(families.setdefault(family, len(families)) if family is not None else None)
    return Sorted(found, tuple(numbers), tuple(families), tuple(remarks))


def _family(slot: Slot, cast: Cast) -> Family | None:
    pairs = zip(cast.participants, slot.names, strict=True)
    tensors = [p.outline.tensors[name] for p, name in pairs if name is not None]
    shape = tensors[0].shape
    if (
        len(tensors) < len(slot.names)
        or any(t.shape != shape or not is_floating(t.dtype) for t in tensors)
        or is_buffer(slot.name, shape)
    ):
        return None
    dtype = promote([t.counts_as or t.dtype for t in tensors])
    return Family(slot.place, shape, dtype, any(t.dtype == "float64" for t in tensors))
