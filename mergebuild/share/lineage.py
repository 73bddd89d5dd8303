"""Where a node comes from: the nodes before it and the sources at the leaves, in brief."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mergebuild.digest import fields_digest
from mergebuild.plan import Leaf, Plan
from mergebuild.recipe import Node, NodeRef, Source
from mergebuild.recipe.written import configuration, native_keys


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
    """What the recipe says of a node, as JSON-like data without layout."""
    return {"node": node.name, **configuration(node), **native_keys(node)}


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
