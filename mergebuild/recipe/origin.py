"""Recipes that other recipes include: where one stands, and how it is asked for.

Pure values: whoever loads a recipe brings the function that fetches. Must not know what an include
looks like.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeAlias

from mergebuild.errors import Location


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a recipe stands: `path` below `base`.

    `base` is "" for the folder of the recipe that everything began with, from which `path` may
    lead out; else a repository at a commit, which it cannot leave. `file` is for messages.
    """

    base: str
    path: str
    file: str

    @property
    def within(self) -> str | None:
        """The folder that relative sources start from, relative to the first recipe's. None: a
        recipe from elsewhere has no folder here."""
        if self.base:
            return None
        parent = PurePosixPath(self.path).parent
        return "" if parent == PurePosixPath() else str(parent)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A recipe that was asked for: `reference` is how it is called on any machine, `commit` what
    its revision means, if it has one."""

    reference: str
    origin: Origin
    commit: str | None
    text: str


Fetch: TypeAlias = Callable[[str, Origin, Location], Fetched]
"""What a reference in a recipe of some origin means. Raises RecipeError at the given place, or
CheckpointError for what the Hub refuses."""


@dataclass(frozen=True, slots=True)
class Included:
    """A recipe as it is included, under the `namespace` of its nodes."""

    namespace: str
    recipe: Fetched

    @property
    def sha256(self) -> str:
        """The hash of its text."""
        import hashlib

        return hashlib.sha256(self.recipe.text.encode()).hexdigest()
