"""A recipe as a mergekit file that mergekit-multi runs, where it says nothing beyond that language.

What mergekit has no word for is an error with its place, all of it at once, and never left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mergebuild.errors import Location, Problem, RecipeError, UsageError, did_you_mean
from mergebuild.graph import build_order
from mergebuild.methods.declaration import Method
from mergebuild.recipe import (
    Condition,
    Extraction,
    Mixture,
    ModelRef,
    Node,
    NodeRef,
    Parameters,
    Recipe,
)
from mergebuild.recipe.context import shown
from mergebuild.recipe.filters import is_regex
from mergebuild.recipe.written import configuration, spelled, yaml_text

METHODS: Final = frozenset(
    (
        *("arcee_fusion", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties", "della"),
        *("della_linear", "karcher", "linear", "model_stock", "multislerp", "nearswap", "nuslerp"),
        *("passthrough", "ram", "ramplus_tl", "sce", "slerp", "task_arithmetic", "ties"),
    )
)
"""What mergekit 0.1.5 merges by."""
OURS: Final = frozenset({"seed", "floor"})
"""Parameters of those methods that mergekit does not know."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A mergekit file, and what to know when it is run."""

    text: str
    notes: tuple[str, ...]


def mergekit_file(recipe: Recipe, methods: Mapping[str, Method], node: str | None) -> Exported:
    """The documents of a node (None: of all outputs) and of what it is made from.

    Raises RecipeError with every key that mergekit has no word for, UsageError for an unknown node.
    """
    if node is not None and node not in recipe.nodes:
        raise UsageError.of(f"no node '{node}'", hint=did_you_mean(node, list(recipe.nodes)))
    targets = [node] if node is not None else list(recipe.outputs)
    chosen = [recipe.nodes[name] for name in build_order(recipe, targets)]
    problems = [problem for one in chosen for problem in _beyond(one, methods, recipe.native)]
    if problems:
        raise RecipeError(*problems)
    unnamed = targets[0] if len(targets) == 1 else None
    called = _stages(chosen, unnamed)
    documents = [
        _document(one, {"name": called[one.name]} if one.name != unnamed else {}, called)
        for one in chosen
    ]
    return Exported(_head(recipe, unnamed) + "---\n".join(documents), tuple(_notes(chosen, recipe)))


def _beyond(node: Node, methods: Mapping[str, Method], native: bool) -> Iterator[Problem]:
    """What of a node mergekit has no word for."""
    about = f"node '{node.name}'"

    def lacks(what: str, at: Location, hint: str | None = None) -> Problem:
        return Problem(f"{about}: mergekit has no {what}", at, hint)

    if node.body is not None:
        kinds = {Extraction: "nodes of kind 'lora'", Mixture: "nodes of kind 'moe' among stages"}
        yield lacks(kinds.get(type(node.body), "LoRA on a stage"), node.at)
        return
    if node.method not in METHODS:
        yield lacks(f"method '{node.method}'", node.at)
    if node.keep != "cache":
        yield lacks("'keep': it writes every stage", node.at, "leave it out")
    if node.missing != "copy":
        yield lacks("'missing'", node.at, "leave it out")
    if node.seed and methods[node.method].random:
        hint = "leave it out, and give mergekit-multi --random-seed"
        yield lacks(f"'seed' (here {node.seed})", node.at, hint)
    for name, parameters in _levels(node):
        for key, setting in parameters.items():
            if key in OURS:
                yield lacks(f"parameter '{key}' under '{node.method}'", setting.at)
            for condition in setting.conditions:
                if condition.value == "inverse":
                    yield lacks(f"value 'inverse' of '{key}'", condition.at)
                yield from _pattern(condition, native, f"{about}: {name}'{key}'")


def _levels(node: Node) -> Iterator[tuple[str, Parameters]]:
    yield "", node.parameters
    for module in node.modules:
        yield "", module.parameters
        for part in module.slices:
            yield "", part.parameters
            for entry in part.inputs:
                yield f"of '{entry.model}' ", entry.parameters


def _pattern(condition: Condition, native: bool, about: str) -> Iterator[Problem]:
    pattern = condition.filter
    if native and pattern not in (None, "*") and (is_regex(pattern) or "*" in pattern):
        yield Problem(
            f"{about}: mergekit has no patterns: its filters are parts of names, unlike "
            f"{shown(pattern)}",
            condition.at,
        )


def _stages(nodes: list[Node], unnamed: str | None) -> dict[str, str]:
    """How the stages are called. mergekit puts a stage's result wherever its name stands as text,
    so a stage must not be called like anything else."""
    called: dict[str, str] = {}
    texts = {text for node in nodes for text in _texts(configuration(node, _outside))}
    for node in nodes:
        name = node.name
        while name in texts or (name != node.name and name in {n.name for n in nodes}):
            name += "-stage"
        called[node.name] = name if node.name != unnamed else node.name
    return called


def _outside(model: ModelRef) -> Any:
    return None if isinstance(model, NodeRef) else spelled(model)


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, list):
        for item in data:
            yield from _texts(item)
    elif isinstance(data, dict):
        for value in data.values():
            yield from _texts(value)


def _document(node: Node, name: Mapping[str, str], called: Mapping[str, str]) -> str:
    def spell(model: ModelRef) -> Any:
        return called[model.name] if isinstance(model, NodeRef) else spelled(model)

    # A line that ends in any way is a comment of its own: nothing gets out of it.
    about = "".join(f"# {shown(line)[1:-1]}\n" for line in (node.description or "").splitlines())
    return about + yaml_text({**name, **configuration(node, spell)})


def _head(recipe: Recipe, unnamed: str | None) -> str:
    out = " --out-path DIR" if unnamed is not None else ""
    return (
        f"# {shown(recipe.name)}, exported by mergebuild\n"
        f"# mergekit-multi FILE --intermediate-dir DIR{out}\n"
    )


def _notes(nodes: list[Node], recipe: Recipe) -> Iterator[str]:
    places = [r.place for node in nodes for r in node.references() if not isinstance(r, NodeRef)]
    if any(place.startswith(("./", "../")) for place in places):
        yield f"relative paths are kept: run mergekit in '{recipe.directory}'"
    if any(node.method.startswith(("dare_", "della")) for node in nodes):
        yield "mergekit draws other random masks: the results agree in distribution only"
