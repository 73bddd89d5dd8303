"""Which recipes were built into this cache, and what each of their nodes was last.

`explain` compares with it, and later clean-ups keep what it names. Losing it loses no checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mergebuild.cache.store import Cache, names_in
from mergebuild.digest import fields_digest
from mergebuild.files import make_directories, write_file

_LARGEST: Final = 1 << 26


@dataclass(frozen=True, slots=True)
class Registered:
    """A recipe's last build: node names to checkpoint keys, and to the folders of outputs."""

    recipe: str
    nodes: Mapping[str, str]
    outputs: Mapping[str, str]


def registered(cache: Cache, recipe: Path) -> Registered | None:
    """The last build of a recipe file; None if there was none or its record is damaged."""
    return read_record(_path(cache, recipe))


def all_registered(cache: Cache) -> Iterator[tuple[Path, Registered | None]]:
    """Every record with its file; None where it is damaged."""
    for name in names_in(cache.recipes):
        if name.endswith(".json") and not name.startswith("."):
            yield cache.recipes / name, read_record(cache.recipes / name)


def read_record(path: Path) -> Registered | None:
    """One record; None if it is not there or damaged."""
    try:
        with open(path, "rb") as file:
            data = json.loads(file.read(_LARGEST))
        return Registered(
            str(data["recipe"]),
            {str(node): str(key) for node, key in data["nodes"].items()},
            {str(node): str(folder) for node, folder in data["outputs"].items()},
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def register(
    cache: Cache, recipe: Path, nodes: Mapping[str, str], outputs: Mapping[str, Path]
) -> None:
    """Record a build, keeping what is known of nodes that it did not touch."""
    former = registered(cache, recipe)
    record = {
        "recipe": str(recipe.resolve()),
        "nodes": {**(former.nodes if former else {}), **nodes},
        "outputs": {
            **(former.outputs if former else {}),
            **{node: str(folder.resolve()) for node, folder in outputs.items()},
        },
    }
    make_directories(cache.recipes)
    write_file(_path(cache, recipe), json.dumps(record, indent=1).encode())


def _path(cache: Cache, recipe: Path) -> Path:
    digest = fields_digest("recipe", [("path", str(recipe.resolve()))])
    return cache.recipes / f"{digest}.json"
