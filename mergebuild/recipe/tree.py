"""Located trees: what was written, where.

Plain values between the YAML reader and the readers of the recipe. Must not know either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from mergebuild.errors import Location
from mergebuild.recipe.model import Scalar


@dataclass(frozen=True, slots=True)
class Leaf:
    """A scalar; `text` is how it was written, without quotes."""

    value: Scalar
    text: str
    at: Location


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: tuple[Tree, ...]
    at: Location


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a mapping and its value; `at` is the key's place."""

    key: str
    value: Tree
    at: Location


@dataclass(frozen=True, slots=True)
class Fields:
    """A mapping, its keys as written; `repeated` are later entries under keys it already had."""

    entries: Mapping[str, Entry]
    at: Location
    repeated: tuple[Entry, ...] = ()


Tree: TypeAlias = Leaf | Items | Fields
