"""What a build will cost: bytes read and written, disk and memory, from the plan alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from heapq import nlargest
from math import prod

from mergebuild.checkpoint.dtypes import itemsize
from mergebuild.methods import registry
from mergebuild.methods.declaration import Operands, nothing_held
from mergebuild.operations import OPERATIONS
from mergebuild.plan.model import Costs, NodePlan
from mergebuild.plan.outline import TensorOutline
from mergebuild.recipe import NodeRef
from mergebuild.remote.remotes import AHEAD, RANGE

RUNTIME_BYTES = 300 << 20
"""What Python with torch takes before it does anything."""
CHUNK_COPIES = 4
"""How many float32 copies of a chunk's operands evaluating it holds at a time, at the most."""


def tensor_bytes(tensor: TensorOutline) -> int:
    return prod(tensor.shape) * itemsize(tensor.dtype)


class _Sizes(dict[tuple[str, str], int]):
    """How many bytes are read from disk for an element, by the model and the dtype: none of a node
    that is built in the same run."""

    def __init__(self, node: NodePlan, nodes: Mapping[str, NodePlan]) -> None:
        self._models = node.models
        self._nodes = nodes

    def __missing__(self, place: tuple[str, str]) -> int:
        model = self._models[place[0]]
        built = isinstance(model, NodeRef) and self._nodes[model.name].wanted
        self[place] = 0 if built else itemsize(place[1])
        return self[place]


def read_bytes(node: NodePlan, nodes: Mapping[str, NodePlan]) -> int:
    """Bytes that building a node reads from sources and cache, what is linked included: it is
    checked. What it gets from a node that is built in the same run is not read from disk."""
    total = sum(place.region.size for place in node.reuse.values())
    whole: set[tuple[str, str]] = set()
    sizes = _Sizes(node, nodes)
    for name, expression in node.expressions.items():
        if name not in node.compute:
            continue
        result = prod(expression.shape)
        for operand in expression.operands:
            elements = result
            if operand.shape is not None:  # read once for all that is made of it
                if (operand.model, operand.tensor) in whole:
                    continue
                whole.add((operand.model, operand.tensor))
                elements = prod(operand.shape)
            if operand.view is None:
                total += elements * sizes[operand.model, operand.dtype]
                continue
            table = node.tables[operand.view.table]
            for part, rows in zip(operand.view.parts, table.reads, strict=True):
                total += elements * rows // len(table) * sizes[part.model, part.dtype]
    return total


def fetched_bytes(node: NodePlan) -> int:
    """Bytes that building a node downloads from remotes."""
    return sum(tensor.size for tensor in node.fetch.values())


def most_operands(node: NodePlan) -> int:
    """How many operands a tensor that is computed has at the most."""
    return max([len(node.expressions[name].operands) for name in node.compute], default=0)


def held_bytes(node: NodePlan) -> Iterator[int]:
    """What a thread holds besides chunks of each tensor that is computed by what says so."""
    computed = [node.expressions[name] for name in node.compute]
    used = {expression.method for expression in computed}
    holding = {
        name: held
        for name in used
        if (held := (OPERATIONS.get(name) or registry()[name]).held) is not nothing_held
    }
    for expression in computed if holding else ():
        if expression.method in holding:
            operands = expression.operands
            shape = operands[0].shape or expression.shape
            yield holding[expression.method](Operands(len(operands), expression.base, shape))


def written_bytes(node: NodePlan) -> int:
    """Bytes that building a node writes to the cache."""
    if not node.wanted or not node.stored:
        return 0
    shards = sum(shard.size for shard in node.shards if shard.name not in node.linked)
    return shards + sum(file.size for file in node.outline.side_files)


def in_flight_bytes(nodes: Iterable[NodePlan]) -> int:
    """The most that scratch files of `keep: never` nodes take, counted one tensor a node."""
    sizes = [
        max(
            (tensor_bytes(node.outline.tensors[name]) for name in (*node.compute, *node.fetch)),
            default=0,
        )
        for node in nodes
        if node.wanted and not node.stored
    ]
    return sum(sizes)


def costs_of(nodes: Mapping[str, NodePlan], jobs: int, chunk: int) -> Costs:
    """The costs of a whole build with so many threads and elements a chunk."""
    wanted = [node for node in nodes.values() if node.wanted]
    reads = {name: read_bytes(node, nodes) for name, node in nodes.items() if node.wanted}
    operands = max(map(most_operands, wanted), default=0)
    chunks = chunk * 4 * CHUNK_COPIES * (operands + 1)
    held = nlargest(jobs, (size for node in wanted for size in held_bytes(node)))
    working = jobs * chunks + sum(held)
    written = sum(written_bytes(node) for node in wanted)
    fetched = sum(fetched_bytes(node) for node in wanted)
    if fetched:
        working += jobs * AHEAD * RANGE
    return Costs(
        read=sum(reads.values()),
        written=written,
        disk=written + jobs * in_flight_bytes(wanted),
        memory=RUNTIME_BYTES + working if wanted else 0,
        fetched=fetched,
        reads=reads,
    )
