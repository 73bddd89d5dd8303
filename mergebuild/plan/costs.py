"""What a build will cost: bytes read and written, disk and memory, from the plan alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

from mergebuild.checkpoint.dtypes import itemsize
from mergebuild.plan.model import Costs, NodePlan
from mergebuild.plan.outline import TensorOutline
from mergebuild.recipe import NodeRef

RUNTIME_BYTES = 300 << 20
"""What Python with torch takes before it does anything."""
CHUNK_COPIES = 4
"""How many float32 copies of a chunk's operands evaluating it holds at a time, at the most."""


def tensor_bytes(tensor: TensorOutline) -> int:
    return prod(tensor.shape) * itemsize(tensor.dtype)


def read_bytes(node: NodePlan, nodes: Mapping[str, NodePlan]) -> int:
    """Bytes that building a node reads from sources and cache, what is linked included: it is
    checked. What it gets from a node that is built in the same run is not read from disk."""
    total = sum(place.region.size for place in node.reuse.values())
    for name in node.compute:
        for operand in node.expressions[name].operands:
            model = node.models[operand.model]
            if isinstance(model, NodeRef) and nodes[model.name].wanted:
                continue
            total += prod(node.expressions[name].shape) * itemsize(operand.dtype)
    return total


def written_bytes(node: NodePlan) -> int:
    """Bytes that building a node writes to the cache."""
    if not node.wanted or not node.stored:
        return 0
    shards = sum(shard.size for shard in node.shards if shard.name not in node.linked)
    return shards + sum(file.size for file in node.outline.side_files)


def in_flight_bytes(nodes: Iterable[NodePlan]) -> int:
    """The most that scratch files of `keep: never` nodes take, counted one tensor a node."""
    sizes = [
        max((tensor_bytes(node.outline.tensors[name]) for name in node.compute), default=0)
        for node in nodes
        if node.wanted and not node.stored
    ]
    return sum(sizes)


def costs_of(nodes: Mapping[str, NodePlan], jobs: int, chunk: int) -> Costs:
    """The costs of a whole build with so many threads and elements a chunk."""
    wanted = [node for node in nodes.values() if node.wanted]
    operands = max(
        (len(node.expressions[name].operands) for node in wanted for name in node.compute),
        default=0,
    )
    working = jobs * chunk * 4 * CHUNK_COPIES * (operands + 1)
    written = sum(written_bytes(node) for node in wanted)
    return Costs(
        read=sum(read_bytes(node, nodes) for node in wanted),
        written=written,
        disk=written + jobs * in_flight_bytes(wanted),
        memory=RUNTIME_BYTES + working if wanted else 0,
    )
