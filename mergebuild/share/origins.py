"""Where the configuration of a merge is found: in a file, a folder or a repository on the Hub.

What is found is untrusted text, read to a `Recipe`. Of a repository, only the small files that may
hold a configuration are fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mergebuild.checkpoint import hub_client
from mergebuild.checkpoint.hub import cache_folder, is_offline
from mergebuild.checkpoint.hub_client import Unreachable
from mergebuild.checkpoint.regular import parse_object, read_small
from mergebuild.errors import Location, RecipeError
from mergebuild.methods.declaration import Method
from mergebuild.recipe import Recipe, mergekit, names, parse_recipe
from mergebuild.recipe.context import Context
from mergebuild.recipe.frame import alone
from mergebuild.recipe.yaml_tree import MOST_CHARACTERS
from mergebuild.share.configurations import Configurations, of_card, of_file
from mergebuild.share.recorded import recipe_of, recorded

CARD: Final = "README.md"
MANIFEST: Final = "mergebuild.json"
_MANIFEST_LARGEST: Final = 1 << 28
_TEXT_LARGEST: Final = 4 * MOST_CHARACTERS
_YAML: Final = (".yml", ".yaml")
_FILES: Final = (MANIFEST, "mergekit_config.yml", "mergekit_config.yaml", CARD)
"""The files of a model that may say how it was merged, the most exact first."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The merge that a text tells of. `label` is where it was found, `title` how everybody knows
    it, `identity` what tells it from others, `directory` where its relative paths start, None if
    that is on another machine."""

    label: str
    title: str
    identity: str
    name: str
    directory: Path | None
    recipe: Recipe
    notes: tuple[str, ...] = ()


def from_path(path: Path, methods: Mapping[str, Method]) -> Origin | None:
    """The merge that a file or a folder tells of; None if there is none in it.

    Raises RecipeError or CheckpointError for what cannot be read.
    """
    if not path.is_dir():
        stem = path.resolve().parent.name if path.name in _FILES else path.stem
        return _from_file(path, str(path), stem, path.parent, methods)
    for file in _FILES:
        if (path / file).is_file():
            name = path.resolve().name
            found = _from_file(path / file, str(path / file), name, path, methods)
            if found is not None:
                return found
    return None


def from_hub(repo: str, revision: str | None, methods: Mapping[str, Method]) -> Origin | None:
    """The merge that a repository on the Hub tells of; None if it tells of none.

    Raises RecipeError or CheckpointError for what cannot be fetched or read.
    """
    if is_offline():
        raise Unreachable.of(f"'{repo}' is on the Hub, and HF_HUB_OFFLINE is set", hint="unset it")
    listing = hub_client.list_files(repo, revision)
    label = f"{repo}@{listing.commit[:8]}"
    cache = cache_folder()
    for file in _FILES:
        limit = _MANIFEST_LARGEST if file == MANIFEST else _TEXT_LARGEST
        if listing.files.get(file, limit + 1) > limit:
            continue
        hub_client.fetch(repo, listing.commit, file, cache, lambda _: None)
        folder = cache / f"models--{repo.replace('/', '--')}" / "snapshots" / listing.commit
        name = repo.partition("/")[2]
        found = _from_file(folder / file, f"{label}/{file}", name, None, methods)
        if found is not None:
            return replace(found, label=label, title=label, identity=repo)
    return None


def _from_file(
    path: Path, label: str, name: str, directory: Path | None, methods: Mapping[str, Method]
) -> Origin | None:
    if path.name == MANIFEST:
        data = parse_object(read_small(path, _MANIFEST_LARGEST), f"'{label}'")
        said = recorded(data.get("provenance"), label)
        recipe = recipe_of(said, path.parent, methods)
        return Origin(label, name, label, name, directory, recipe)
    text = _text(path, label)
    if _is_native(path, text):
        recipe = parse_recipe(text, Path(label), methods=methods)
        return Origin(label, recipe.name, label, recipe.name, directory, recipe)
    read: Callable[[str, str], Configurations | None]
    read = of_file if path.suffix in _YAML else of_card
    found = read(text, label)
    if found is None:
        return None
    # Named after the folder or the repository; places in the text keep the file's name.
    ctx = Context()
    made_up = Path(f"{names.from_stem(name)}.yaml")
    recipe = mergekit.read(found.documents, text, made_up, alone(made_up, methods), ctx)
    called = names.from_stem(name)
    return Origin(label, called, label, called, directory, recipe, found.notes)


def _text(path: Path, label: str) -> str:
    data = read_small(path, _TEXT_LARGEST)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError.of("the file is not text in UTF-8", at=Location(label, line, 1)) from None


def _is_native(path: Path, text: str) -> bool:
    lines = text.splitlines()
    return path.suffix in _YAML and any(line.startswith("mergebuild:") for line in lines)
