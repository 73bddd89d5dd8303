"""What every reader of a recipe carries: the findings so far, the dialect, the node being read.

Owns how findings are worded around the edges (the node's name in front, user text made printable,
warnings said once, a bound on their number). Must not know what a recipe looks like.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NoReturn

from mergebuild.errors import Location, Problem, RecipeError
from mergebuild.methods.declaration import Method

MOST_PROBLEMS = 25


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """By place in the file; what has no place comes first."""
    return tuple(
        sorted(
            problems, key=lambda problem: (problem.at is not None, problem.at or problem.message)
        )
    )


def shown(text: str) -> str:
    """User text in quotes for a message: short, one line, no control characters."""
    short = text if len(text) <= 80 else text[:77] + "..."
    return "'" + "".join(c if c.isprintable() else repr(c)[1:-1] for c in short) + "'"


@dataclass(frozen=True, slots=True)
class Context:
    """Shared findings, warnings by message, with the dialect and the node at hand."""

    native: bool = False
    strict: bool = False
    node: str | None = None
    method: Method | None = None
    problems: list[Problem] = field(default_factory=list)
    warnings: dict[str, Problem] = field(default_factory=dict)

    def within(self, node: str, method: Method | None = None) -> Context:
        """The same findings, said of one node."""
        return replace(self, node=node, method=method)

    def error(self, message: str, at: Location, hint: str | None = None) -> None:
        problem = Problem(self._about(message), at, hint)
        if problem not in self.problems:
            self.problems.append(problem)
        if len(self.problems) >= MOST_PROBLEMS:
            self.stop()

    def warn(self, message: str, at: Location, hint: str | None = None) -> None:
        text = self._about(message)
        self.warnings.setdefault(text, Problem(text, at, hint))

    def fatal(self, message: str, at: Location, hint: str | None = None) -> NoReturn:
        """A mistake after which reading on would only produce nonsense."""
        self.problems.append(Problem(self._about(message), at, hint))
        self.stop()

    def stop(self) -> NoReturn:
        raise RecipeError(*in_order(self.problems))

    def _about(self, message: str) -> str:
        return f"node {shown(self.node)}: {message}" if self.node is not None else message
