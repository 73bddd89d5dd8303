"""Errors that a user sees: what is wrong, where, and what to do.

    MergebuildError          exit code 1
    ├── BuildError           1   a node could not be built
    ├── CheckpointError      1   a checkpoint on disk is not what it claims to be
    ├── UsageError           2   the command line is wrong
    ├── RecipeError          2   the recipe is wrong, or does not fit its sources
    ├── DriftError           3   a lock says otherwise
    ├── StaleError           3   what is asked for has not been built as it would be now
    └── CapacityError        4   not enough disk or memory

Knows nothing of the rest of the program.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """A place in a text file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: `message` says what is wrong, `hint` what to do about it."""

    message: str
    at: Location | None = None
    hint: str | None = None

    def render(self, level: str = "error") -> str:
        place = f"{self.at}: " if self.at else ""
        text = f"{level}: {place}{self.message}"
        return f"{text}\n\nhint: {self.hint}" if self.hint else text


class MergebuildError(Exception):
    """The root of every error this program raises on purpose."""

    exit_code: ClassVar[int] = 1

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(problem.render() for problem in problems))
        self.problems: tuple[Problem, ...] = problems

    @classmethod
    def of(cls, message: str, *, at: Location | None = None, hint: str | None = None) -> Self:
        return cls(Problem(message, at, hint))


class BuildError(MergebuildError):
    """A node could not be built."""


class CheckpointError(MergebuildError):
    """A checkpoint on disk is not what it claims to be."""


class UsageError(MergebuildError):
    """The command line is wrong."""

    exit_code = 2


class RecipeError(MergebuildError):
    """The recipe is wrong, or does not fit its sources; carries every independent mistake."""

    exit_code = 2


class DriftError(MergebuildError):
    """What is there is not what the lock of a recipe says; carries every cause."""

    exit_code = 3


class StaleError(MergebuildError):
    """What is asked for is not what a build would make now."""

    exit_code = 3


class CapacityError(MergebuildError):
    """Not enough disk or memory for what was asked."""

    exit_code = 4


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `name` was probably meant to be, if any is close."""
    matches = difflib.get_close_matches(name, sorted(candidates), n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(name: str, candidates: Sequence[str]) -> str:
    """A hint for an unknown name: the nearest candidate, else all of them."""
    match = nearest(name, candidates)
    if match is not None:
        return f"did you mean '{match}'?"
    return "known are: " + ", ".join(sorted(candidates)) if candidates else "none is known here"
