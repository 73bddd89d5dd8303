"""What a model's tensors are called in the output of a node.

Checkpoints of one model may be named differently at the beginning; the output has the names of the
checkpoint whose config it gets. Decides by names alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mergebuild.checkpoint.stacks import TEXT_SECTIONS, ModelLayout, find_layout
from mergebuild.checkpoint.wrappers import rename
from mergebuild.plan.outline import Outline


@dataclass(frozen=True, slots=True)
class Naming:
    """An outline, and the names of its tensors in the output: `layout` is of those, `own` maps them
    to the model's own, None if they are the same.

    `rules` are (own beginning, beginning in the output, how many tensors).
    """

    outline: Outline
    layout: ModelLayout
    own: Mapping[str, str] | None = None
    rules: tuple[tuple[str, str, int], ...] = ()

    def name(self, output: str) -> str | None:
        """The model's own name for what the output calls so; None if it has no such tensor."""
        if self.own is not None:
            return self.own.get(output)
        return output if output in self.outline.tensors else None

    @property
    def head(self) -> str | None:
        """The output head, by its name in the output."""
        head = self.outline.head
        if self.own is None or head is None:
            return head
        return next(output for output, own in self.own.items() if own == head)


def naming_of(outline: Outline, pattern: Outline) -> Naming:
    """The names of a model's tensors in an output that has the names of `pattern`."""
    if outline is pattern or outline.tensors.keys() == pattern.tensors.keys():
        return Naming(outline, outline.layout)
    types = [*_types(outline.config), *_types(pattern.config)]
    renaming = rename(outline.tensors.keys(), pattern.tensors.keys(), types)
    if renaming is None:
        return Naming(outline, outline.layout)
    own = {output: name for name, output in renaming.names.items()}
    return Naming(outline, find_layout(own, outline.config), own, renaming.rules)


def _types(config: Mapping[str, Any] | None) -> Iterator[str]:
    top: Mapping[str, Any] = config or {}
    for section in (top, *(top.get(key) for key in TEXT_SECTIONS)):
        kind = section.get("model_type") if isinstance(section, Mapping) else None
        if isinstance(kind, str):
            yield kind
