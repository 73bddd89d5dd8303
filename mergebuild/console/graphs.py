"""A recipe's graph as text, Mermaid, Graphviz dot or JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Final

from mergebuild.recipe import Node, NodeRef, Recipe


def _inputs(node: Node) -> list[tuple[str, bool]]:
    """(name, whether it is a node) of what a node is made from."""
    return [(str(r), isinstance(r, NodeRef)) for r in dict.fromkeys(node.references())]


def as_text(recipe: Recipe, order: list[str]) -> str:
    lines = []
    for name in order:
        node = recipe.nodes[name]
        lines.append(f"{name}  ({node.method})")
        for model, is_node in _inputs(node):
            lines.append(f"  <- {model}" + ("" if is_node else "  (source)"))
        if name in recipe.outputs:
            lines.append(f"  -> {recipe.outputs[name] or '--out'}")
    return "\n".join(lines)


def _edges(recipe: Recipe, order: list[str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Identifiers by label, and edges between identifiers."""
    ids: dict[str, str] = {}
    edges = []
    for name in order:
        for model, is_node in _inputs(recipe.nodes[name]):
            label = model if is_node else f"source {model}"
            edges.append((label, name))
            ids.setdefault(label, f"n{len(ids)}")
        ids.setdefault(name, f"n{len(ids)}")
    return ids, [(ids[start], ids[end]) for start, end in edges]


def as_mermaid(recipe: Recipe, order: list[str]) -> str:
    ids, edges = _edges(recipe, order)
    lines = ["flowchart LR"]
    for label, identifier in ids.items():
        if label in recipe.nodes:
            text = f"{label}<br/>{recipe.nodes[label].method}"
            lines.append(f'  {identifier}["{_quoted(text)}"]')
        else:
            lines.append(f'  {identifier}(["{_quoted(label.removeprefix("source "))}"])')
    lines.extend(f"  {start} --> {end}" for start, end in edges)
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return re.sub(r'["#;]', lambda found: f"#{ord(found.group())};", text)


def as_dot(recipe: Recipe, order: list[str]) -> str:
    ids, edges = _edges(recipe, order)
    lines = ["digraph recipe {", "  rankdir=LR;"]
    for label, identifier in ids.items():
        is_node = label in recipe.nodes
        text = (
            f"{label}\n{recipe.nodes[label].method}" if is_node else label.removeprefix("source ")
        )
        shape = "box" if is_node else "ellipse"
        lines.append(f"  {identifier} [label={json.dumps(text)}, shape={shape}];")
    lines.extend(f"  {start} -> {end};" for start, end in edges)
    return "\n".join([*lines, "}"])


def as_json(recipe: Recipe, order: list[str]) -> str:
    nodes = [
        {
            "node": name,
            "method": recipe.nodes[name].method,
            "inputs": [
                {"model": model, "kind": "node" if is_node else "source"}
                for model, is_node in _inputs(recipe.nodes[name])
            ],
            "output": str(recipe.outputs[name]) if recipe.outputs.get(name) else None,
        }
        for name in order
    ]
    return json.dumps({"recipe": recipe.name, "nodes": nodes}, indent=1)


FORMATS: Final[Mapping[str, Callable[[Recipe, list[str]], str]]] = {
    "text": as_text,
    "mermaid": as_mermaid,
    "dot": as_dot,
    "json": as_json,
}
