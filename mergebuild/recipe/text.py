"""Reading a text file that a user wrote. Knows nothing of what stands in it."""

from __future__ import annotations

from pathlib import Path

from mergebuild.errors import Location, Problem, RecipeError
from mergebuild.recipe.yaml_tree import MOST_CHARACTERS


def read_text(path: Path, what: str) -> str:
    """A file's text, as much of it as is needed to see that it is too long; `what` it is to the
    user. Raises RecipeError if it cannot be read or is not UTF-8."""
    try:
        with path.open("rb") as file:
            data = file.read(4 * MOST_CHARACTERS + 4)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise RecipeError(Problem(f"cannot read {what} '{path}': {why.lower()}")) from None
    return decoded(data, str(path), what)


def decoded(data: bytes, file: str, what: str) -> str:
    """Bytes as text. Raises RecipeError with the place of what is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = error.start - (before.rfind(b"\n") + 1) + 1
        at = Location(file, before.count(b"\n") + 1, column)
        said = "the file is not text in UTF-8"
        raise RecipeError(Problem(said, at, f"is this {what}?")) from None
