"""Where a node comes from: the nodes before it and the sources at the leaves, in brief."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mergebuild.digest import fields_digest
from mergebuild.plan import Leaf, Plan
from mergebuild.recipe import (
    Application,
    Expert,
    Extraction,
    Mixture,
    Module,
    Node,
    NodeRef,
    Parameters,
    Slice,
    Source,
    Value,
)
from mergebuild.recipe.model import Body


@dataclass(frozen=True, slots=True)
class Lineage:
    """The nodes that lead to a node, itself last, and the sources that they start from."""

    nodes: tuple[Node, ...]
    leaves: tuple[Leaf, ...]


def lineage(plan: Plan, name: str) -> Lineage:
    """The lineage of a node, nodes in build order and leaves in the order of their first use."""
    needed = {name}
    for other in reversed(list(plan.nodes)):
        if other in needed:
            references = plan.nodes[other].node.references()
            needed.update(r.name for r in references if isinstance(r, NodeRef))
    nodes = tuple(plan.nodes[other].node for other in plan.nodes if other in needed)
    used = dict.fromkeys(r for node in nodes for r in node.references() if isinstance(r, Source))
    return Lineage(nodes, tuple(plan.leaves[source] for source in used))


def describe_node(node: Node) -> dict[str, Any]:
    """A node's canonical form, as JSON-like data: what the recipe says, without layout."""
    head: dict[str, Any] = {"node": node.name, "merge_method": node.method}
    if node.body is not None:
        head = {"node": node.name, **_body(node.body)}
    for key, value in (
        ("description", node.description),
        ("base_model", str(node.base) if node.base is not None else None),
        ("dtype", node.dtype),
        ("out_dtype", node.out_dtype),
        ("parameters", parameters(node.parameters)),
    ):
        if value:
            head[key] = value
    if node.seed:
        head["seed"] = node.seed
    if node.body is not None:
        return head
    return {**head, "modules": [_module(module) for module in node.modules]}


def _body(body: Body) -> dict[str, Any]:
    """What a node says that is no merge, as a recipe would write it."""
    match body:
        case Extraction():
            ranks = {pattern or "*": rank for pattern, rank in body.ranks}
            return {
                "kind": "lora",
                "model": str(body.model),
                "rank": ranks["*"] if list(ranks) == ["*"] else ranks,
                **({"alpha": body.alpha} if body.alpha is not None else {}),
                **({"modules": list(body.modules)} if body.modules else {}),
                "embeddings": body.embeddings,
                **({"modules_to_save": list(body.saved)} if body.saved else {}),
            }
        case Mixture():
            return {
                "kind": "moe",
                **({"architecture": body.architecture} if body.architecture else {}),
                "experts": [_expert(expert) for expert in body.experts],
                **({"shared_experts": [_expert(e) for e in body.shared]} if body.shared else {}),
                "experts_per_token": body.per_token,
                **({"gates": str(body.gates)} if body.gates is not None else {}),
            }
        case Application():
            return {"model": str(body.model), "lora": str(body.adapter)}


def _expert(expert: Expert) -> dict[str, Any]:
    return {
        "source_model": str(expert.model),
        "gate": {"vectors": expert.gate} if expert.gate is not None else "random",
        **({"residual_scale": expert.scale} if expert.scale != 1.0 else {}),
    }


def _module(module: Module) -> dict[str, Any]:
    return {
        **({"module": module.name} if module.name else {}),
        **({"parameters": parameters(module.parameters)} if module.parameters else {}),
        "slices": [_slice(part) for part in module.slices],
    }


def _slice(part: Slice) -> dict[str, Any]:
    sources = []
    for entry in part.inputs:
        row: dict[str, Any] = {"model": str(entry.model)}
        if entry.layer_range is not None:
            row["layer_range"] = list(entry.layer_range)
        if entry.parameters:
            row["parameters"] = parameters(entry.parameters)
        sources.append(row)
    return {
        **({"base_model": str(part.base)} if part.base is not None else {}),
        **({"parameters": parameters(part.parameters)} if part.parameters else {}),
        "sources": sources,
    }


def parameters(settings: Parameters) -> dict[str, Any]:
    """Parameters as a recipe would write them."""
    found: dict[str, Any] = {}
    for name, setting in settings.items():
        rows = [(c.filter, _plain(c.value)) for c in setting.conditions]
        if len(rows) == 1 and rows[0][0] is None:
            found[name] = rows[0][1]
        else:
            found[name] = [
                {**({"filter": pattern} if pattern is not None else {}), "value": value}
                for pattern, value in rows
            ]
    return found


def _plain(value: Value) -> Any:
    return list(value) if isinstance(value, tuple) else value


def describe_leaf(leaf: Leaf) -> dict[str, Any]:
    """A source as provenance shows it; `content` is the digest of its tensors."""
    tensors = sorted(leaf.outline.tensors.items())
    content = fields_digest("leaf", ((name, tensor.key) for name, tensor in tensors))
    return {
        "name": str(leaf.source),
        "model": leaf.source.written or leaf.source.place,
        **_revision(leaf, leaf.source),
        **({"lora": _described(leaf, leaf.source.lora)} if leaf.source.lora else {}),
        "content": content,
        **({"license": text} if (text := licence(leaf)) else {}),
    }


def _described(leaf: Leaf, lora: Source) -> dict[str, Any]:
    return {"model": lora.written or lora.place, **_revision(leaf, lora)}


def _revision(leaf: Leaf, part: Source) -> dict[str, str]:
    """The revision as written, and the commit that it was on the Hub."""
    asked = part.place, part.revision
    commits = [s.commit for s in leaf.snapshots if (s.repo, s.revision) == asked]
    return {
        **({"revision": part.revision} if part.revision else {}),
        **({"commit": commits[0]} if commits else {}),
    }


def licence(leaf: Leaf) -> str | None:
    """The licence that a source's card states."""
    return _text(leaf.checkpoint.card_metadata, "license")


def _text(metadata: Mapping[str, Any], key: str) -> str | None:
    value = metadata.get(key)
    return value if isinstance(value, str) and value else None


def hub_ids(leaves: tuple[Leaf, ...]) -> Iterator[str]:
    """How the leaves are called on the Hub, as far as their names are of its form."""
    for leaf in leaves:
        model = leaf.source.written or leaf.source.place
        if model.count("/") == 1 and not model.startswith((".", "~", "/")):
            yield model
