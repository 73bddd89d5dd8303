"""Building a node that is cached once more, beside it, and comparing the two bit by bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mergebuild.cache import Cache, Manifest
from mergebuild.cache.lease import Lease
from mergebuild.checkpoint.reader import Files
from mergebuild.engine.build import Options, Run
from mergebuild.engine.space import check_space, failure
from mergebuild.engine.tally import Tally
from mergebuild.errors import BuildError
from mergebuild.events import Sink
from mergebuild.files import remove_tree
from mergebuild.methods.declaration import Method
from mergebuild.plan import Plan

_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of `tensors` compared, those that differ, and the largest distance of any two elements."""

    tensors: int
    different: tuple[str, ...]
    distance: float


def check(
    plan: Plan,
    name: str,
    *,
    methods: Mapping[str, Method],
    run: str,
    options: Options,
    sink: Sink,
) -> Comparison:
    """Carry out a plan that makes the cached node `name` anew, in a cache of its own that is
    removed afterwards, and compare. Raises BuildError if the node is not in the cache."""
    key = plan.nodes[name].key
    former = plan.cache.lookup(key)
    if former is None:
        raise BuildError.of(
            f"node '{name}' is not in the cache: there is nothing to compare with",
            hint="build it first",
        )
    beside = Cache(plan.cache.staging / f"check.{run}")
    try:
        check_space(plan)
        with Lease(plan.cache, run) as lease:
            lease.take((), [key])
            try:
                wanted = {n: node for n, node in plan.nodes.items() if node.wanted}
                Run(plan, beside, methods, Tally(run, sink), options).nodes(wanted)
                return _compare(plan.cache, beside, key, former)
            finally:
                if beside.root.exists():
                    remove_tree(beside.root)
    except OSError as error:
        raise failure(error, plan.cache) from error


def _compare(cache: Cache, beside: Cache, key: str, former: Manifest) -> Comparison:
    again = beside.lookup(key)
    assert again is not None
    different = []
    distance = 0.0
    with Files() as files:
        for name, record in sorted(former.tensors.items()):
            other = again.tensors[name]
            shape, dtype = record.shape, record.dtype
            readers = [
                files.reader(c.folder(key) / r.shard, r.offset, dtype, shape, name)
                for c, r in ((cache, record), (beside, other))
            ]
            step = _BLOCK // readers[0].itemsize
            apart = []
            for start in range(0, readers[0].count, step):
                stop = min(start + step, readers[0].count)
                blocks = [bytearray((stop - start) * readers[0].itemsize) for _ in readers]
                for reader, block in zip(readers, blocks, strict=True):
                    reader.read(start, stop, memoryview(block))
                if blocks[0] != blocks[1]:
                    apart.append(_distance(blocks[0], blocks[1], dtype))
            if apart:
                different.append(name)
                distance = max(distance, *apart)
    return Comparison(len(former.tensors), tuple(different), distance)


def _distance(one: bytearray, other: bytearray, dtype: str) -> float:
    from mergebuild.kernels.distance import largest_distance

    return largest_distance(one, other, dtype)
