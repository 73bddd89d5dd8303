"""Where a node comes from: the nodes before it and the sources at the leaves, in brief."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mergebuild.digest import fields_digest
from mergebuild.plan import Leaf, Plan
from mergebuild.recipe import Node, NodeRef, Source
from mergebuild.recipe.written import configuration, native_keys
from mergebuild.share.stated import Stated, statements


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
    return {
        "name": str(leaf.source),
        **_part(leaf, leaf.source),
        **({"lora": _part(leaf, leaf.source.lora)} if leaf.source.lora else {}),
        "content": leaf_content(leaf),
        **_stated(statements([leaf])[0]),
    }


def leaf_content(leaf: Leaf) -> str:
    """The digest of all tensors of a source."""
    tensors = sorted(leaf.outline.tensors.items())
    return fields_digest("leaf", ((name, tensor.key) for name, tensor in tensors))


def _stated(stated: Stated) -> dict[str, Any]:
    said: dict[str, Any] = {
        "license": stated.licence,
        "license_name": stated.licence_name,
        "license_link": stated.licence_link,
        "datasets": list(stated.datasets) or None,
    }
    return {key: value for key, value in said.items() if value is not None}


def _part(leaf: Leaf, part: Source) -> dict[str, str]:
    """A model or a LoRA: where it is from, the revision as written, and the commit on the Hub. What
    an override has put in its place on this machine goes by the recipe's own name for it."""
    asked = part.place, part.revision
    commits = [s.commit for s in leaf.snapshots if (s.repo, s.revision) == asked]
    return {
        "model": part.place if commits else part.written or part.place,
        **({"revision": part.revision} if part.revision else {}),
        **({"commit": commits[0]} if commits else {}),
    }
