"""What planning a node brings up: problems that stop it, and notes, each with its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mergebuild.errors import Location, Problem
from mergebuild.plan.sizes import Shapes, sizes_table
from mergebuild.recipe import Node


@dataclass(slots=True)
class Remarks:
    """Problems and notes by what they say, with the tensors that they are about.

    `sizes` are the tensors whose shapes differ between the inputs.
    """

    problems: dict[tuple[str, Location | None, str | None], list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    sizes: dict[str, Shapes] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many problems there are, counted for each tensor."""
        return sum(map(len, self.problems.values()))

    def problem(
        self, message: str, tensor: str, at: Location | None = None, hint: str | None = None
    ) -> None:
        self.problems.setdefault((message, at, hint), []).append(tensor)

    def note(self, message: str, tensor: str) -> None:
        self.notes.setdefault(message, []).append(tensor)

    def errors(self, node: Node) -> Iterator[Problem]:
        if self.sizes:
            yield Problem(
                f"node '{node.name}': shapes differ between the inputs\n{sizes_table(self.sizes)}",
                node.at,
                "inputs of one node must be of one architecture and one size; where only the "
                "vocabularies differ, say which tokens to write: tokenizer_source: base or union",
            )
        for (message, at, hint), tensors in self.problems.items():
            yield Problem(f"node '{node.name}': {message}: {some(tensors)}", at, hint)


def some(names: Sequence[str]) -> str:
    """The first name, and how many more there are."""
    more = len(names) - 1
    return f"'{names[0]}'" + (f" and {more} more" if more else "")
