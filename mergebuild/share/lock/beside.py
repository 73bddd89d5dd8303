"""The lock beside a recipe: whether there is one. What reading takes is imported where one is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mergebuild.share.lock.model import Lock


def lock_path(recipe: Path) -> Path:
    """Where the lock of a recipe is: beside it."""
    return recipe.with_name(f"{recipe.name}.lock")


def lock_of(recipe: Path) -> Lock | None:
    """The lock of a recipe; None if there is none. Raises RecipeError with every mistake."""
    if not lock_path(recipe).exists():
        return None
    from mergebuild.share.lock.text import read_lock

    return read_lock(lock_path(recipe))
