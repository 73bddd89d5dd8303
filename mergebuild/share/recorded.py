"""What a built checkpoint records of its making: enough to make it again somewhere else.

A manifest is untrusted: a recipe in it is read as any recipe is, and what its sources hold is
compared with what the manifest says they held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mergebuild.cache import Manifest
from mergebuild.checkpoint.hub import is_repo
from mergebuild.checkpoint.hub_client import COMMIT
from mergebuild.errors import CheckpointError, Problem, RecipeError
from mergebuild.methods.declaration import Method
from mergebuild.plan import Plan, changes
from mergebuild.recipe import Recipe, parse_recipe
from mergebuild.recipe.names import from_stem
from mergebuild.share.lineage import leaf_content

_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Recorded:
    """The recipe that a checkpoint was built from, as text, with its lock, what was set in it from
    outside, and where its sources came from, by their names and as written."""

    text: str
    file: str
    native: bool
    lock: str | None
    variables: Mapping[str, str]
    sources: Mapping[str, str]
    allow_nonfinite: bool
    device: str


def recorded(provenance: object, where: str) -> Recorded:
    """What the provenance of a manifest says. Raises CheckpointError if it holds no recipe."""
    provenance = provenance if isinstance(provenance, dict) else {}
    recipe = provenance.get("recipe")
    recipe = recipe if isinstance(recipe, dict) else {}
    text, variables = recipe.get("text"), recipe.get("variables", {})
    sound = isinstance(variables, dict) and all(isinstance(v, str) for v in variables.values())
    if not isinstance(text, str) or not sound:
        raise CheckpointError.of(f"'{where}' does not say what recipe it was built from")
    device, lock = provenance.get("device"), recipe.get("lock")
    return Recorded(
        text=text,
        native=any(line.startswith("mergebuild:") for line in text.splitlines()),
        lock=lock if isinstance(lock, str) else None,
        file=f"{from_stem(Path(str(recipe.get('file', 'recipe'))).stem)}.yaml",
        variables=variables,
        sources=dict(_places(leaves_of(provenance))),
        allow_nonfinite=provenance.get("allow_nonfinite") is True,
        device=device if isinstance(device, str) else "cpu",
    )


def leaves_of(provenance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The sources that the provenance of a manifest names, whatever is not text left out: every
    one has a `name` and a `model`, and so has its `lora`, if there is one."""
    leaves = provenance.get("leaves")
    found = [_leaf(leaf) for leaf in (leaves if isinstance(leaves, list) else [])]
    return [leaf for leaf in found if "name" in leaf and "model" in leaf]


def _leaf(said: object) -> dict[str, Any]:
    if not isinstance(said, dict):
        return {}
    found: dict[str, Any] = {k: v for k, v in said.items() if isinstance(v, str)}
    lora = _leaf(said.get("lora"))
    if "model" in lora:
        found["lora"] = lora
    datasets = said.get("datasets")
    if isinstance(datasets, list):
        found["datasets"] = [name for name in datasets if isinstance(name, str)]
    return found


def _places(leaves: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Sources from the Hub, with the commits that they were, by their names and as written."""
    for leaf in leaves:
        parts = [part for part in (leaf, leaf.get("lora")) if part is not None]
        places = [_place(part) for part in parts]
        if all(places) and any("@" in str(place) for place in places):
            yield leaf["name"], "+".join(map(str, places))
        for part, place in zip(parts, places, strict=True):
            if place is not None and "@" in place:
                yield (f"{part['model']}@{part['revision']}" if "revision" in part
                       else part["model"]), place  # fmt: skip


def _place(part: Mapping[str, Any]) -> str | None:
    model, commit = part["model"], part.get("commit", "")
    if "@" in model or "+" in model:
        return None
    return f"{model}@{commit}" if COMMIT.fullmatch(commit) and is_repo(model) else model


def recipe_of(
    said: Recorded,
    directory: Path,
    methods: Mapping[str, Method],
    *,
    sources: Mapping[str, str] = _NONE,
    mirrors: Mapping[str, str] = _NONE,
) -> Recipe:
    """The recipe, as if it stood in `directory`, its sources as they were; `sources` and `mirrors`
    say of some where they are here. Raises RecipeError, UsageError."""
    return parse_recipe(
        said.text,
        directory / said.file,
        variables=said.variables,
        sources=sources,
        mirrors={**said.sources, **mirrors},
        methods=methods,
    )


def check_origin(plan: Plan, name: str, manifest: Manifest) -> tuple[str, ...]:
    """Whether a plan makes a node of the same sources as before; what else is another, in words.

    Raises CheckpointError for sources that hold something else, RecipeError if there is no node of
    that name.
    """
    before = {leaf["name"]: leaf for leaf in leaves_of(manifest.provenance)}
    problems = []
    for source, leaf in plan.leaves.items():
        said = before.get(str(source), {}).get("content")
        if said is not None and said != leaf_content(leaf):
            was = before[str(source)]
            at = f" at commit {was['commit']}" if "commit" in was else ""
            problems.append(
                Problem(
                    f"source '{source}' holds something else than '{name}' was built from",
                    hint=f"give the one that was, {was['model']}{at}: --source {source}=PATH",
                )
            )
    if problems:
        raise CheckpointError(*problems)
    node = plan.nodes[name]
    if node.key == manifest.key:
        return ()
    found = changes(manifest, node.expressions, node.outline.side_files)
    return tuple(reason.text for reason in found) or ("its key is another",)


def node_of(recipe: Recipe, manifest: Manifest, where: str) -> str:
    """The node of a recipe that a manifest is of. Raises RecipeError."""
    if manifest.node not in recipe.nodes:
        raise RecipeError.of(f"'{where}': its recipe has no node '{manifest.node}'")
    return manifest.node
