"""Plans made before their sources were read: when they may be, and the keys that they come to.

A key follows from contents, so a source is digested before it is planned with. Where nothing that
is there already can be what is asked for, a plan needs no keys to say what has to be done: others
stand for them, and a build learns the true ones tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from mergebuild.cache import Index, sound
from mergebuild.cache.left import left_like
from mergebuild.checkpoint.contents import Contents
from mergebuild.checkpoint.header import TensorInfo
from mergebuild.expression import Expression, Operand, TensorKeys, view_key
from mergebuild.plan.costs import tensor_bytes
from mergebuild.plan.leaves import files_of
from mergebuild.plan.model import NodePlan, Plan
from mergebuild.recipe import NodeRef

_MATRIX: Final = 2

Digest = Callable[[TensorInfo], str]


class TrueKeys:
    """The keys of a provisional plan, each known as soon as what it follows from has been read:
    `digest` is asked for that. From any thread."""

    def __init__(self, plan: Plan, digest: Digest) -> None:
        self._plan = plan
        self._digests = _Digests(digest)
        self._keys: dict[tuple[str, str], str] = {}
        self._forms = TensorKeys()

    def expression(self, node: NodePlan, tensor: str) -> Expression:
        """How a tensor follows from its operands, with their keys."""
        made = node.expressions[tensor]
        if not node.outline.provisional:
            return made
        return replace(
            made, operands=tuple(replace(o, key=self._content(node, o)) for o in made.operands)
        )

    def key(self, node: NodePlan, tensor: str) -> str:
        """The key of a node's tensor."""
        if not node.outline.provisional:
            return node.outline.tensors[tensor].key
        place = node.node.name, tensor
        if place not in self._keys:
            made = node.expressions[tensor]
            contents = tuple([self._content(node, operand) for operand in made.operands])
            self._keys[place] = self._forms.key(made, contents)
        return self._keys[place]

    def _content(self, node: NodePlan, operand: Operand) -> str:
        if operand.view is not None:
            parts = [replace(part, key=self._content(node, part)) for part in operand.view.parts]
            return view_key(replace(operand.view, parts=tuple(parts)), operand.dtype)
        model = node.models[operand.model]
        if isinstance(model, NodeRef):
            return self.key(self._plan.nodes[model.name], operand.tensor)
        leaf = self._plan.leaves[model]
        if not leaf.outline.provisional:
            return operand.key
        if operand.tensor in leaf.derived:
            return leaf.derived[operand.tensor].key(self._digests)
        return self._digests[leaf.checkpoint.tensors[operand.tensor]]


class _Digests(dict[TensorInfo, str]):
    """Digests by tensor, each asked for when it is looked up."""

    def __init__(self, digest: Digest) -> None:
        self._digest = digest

    def __missing__(self, tensor: TensorInfo) -> str:
        return self._digest(tensor)


def unlike_all(plan: Plan, contents: Contents) -> bool:
    """Whether nothing that is in the cache, at an output or left by a dead run can be what a
    provisional plan asks for.

    Of each node two tensors are looked at, and what they are made from is read. One whose key is
    nowhere proves that the node's checkpoint is not there. Raises CheckpointError.
    """
    nodes = [
        node
        for node in plan.nodes.values()
        if node.wanted and node.stored and node.outline.provisional
    ]
    if any(left_like(plan.cache, node.shards) for node in nodes):
        return False
    places = [node.output.path for node in nodes if node.output is not None]
    if not any(path.exists() for path in places) and not any(plan.cache.all_keys()):
        return True
    with files_of(plan.leaves.values()) as files:
        keys = TrueKeys(plan, lambda tensor: contents.digest(tensor, files))
        probes = {keys.key(node, tensor) for node in nodes for tensor in _probes(node)}
    if any(not probes.isdisjoint(_published(node)) for node in nodes):
        return False
    index = Index(plan.cache)
    try:
        return not index.tensors(probes)
    finally:
        index.close()


def _published(node: NodePlan) -> set[str]:
    """The keys of the tensors that lie at a node's output."""
    there = sound(node.output.path, later=True) if node.output is not None else None
    return {record.key for record in there.tensors.values()} if there is not None else set()


def _probes(node: NodePlan) -> set[str]:
    """Some tensors that are quickly read and say which models a node is made from: the first and
    the last of the smallest matrices, as vectors are often the same in all finetunes."""
    tensors = node.outline.tensors
    matrices = [name for name, t in tensors.items() if len(t.shape) >= _MATRIX] or list(tensors)
    least = min(tensor_bytes(tensors[name]) for name in matrices)
    smallest = [name for name in matrices if tensor_bytes(tensors[name]) == least]
    return {smallest[0], smallest[-1]}
