"""Building a node that is cached once more, beside it, and comparing the two bit by bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mergebuild.cache import Cache, Manifest
from mergebuild.cache.lease import Lease
from mergebuild.checkpoint.reader import Files
from mergebuild.checkpoint.safetensors import INDEX
from mergebuild.digest import bytes_digest
from mergebuild.engine.build import Run, announced
from mergebuild.engine.options import Options
from mergebuild.engine.space import check_space, failure
from mergebuild.engine.tally import Tally
from mergebuild.events import Sink
from mergebuild.files import remove_tree
from mergebuild.methods.declaration import Method
from mergebuild.plan import Plan

_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of `tensors` compared, those that differ or that one of the two lacks, and the largest
    distance of any two elements; `files` are the other files that differ."""

    tensors: int
    different: tuple[str, ...]
    distance: float
    files: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        return not self.different and not self.files


def check(
    plan: Plan,
    name: str,
    folder: Path,
    former: Manifest,
    *,
    methods: Mapping[str, Method],
    run: str,
    options: Options,
    sink: Sink,
) -> Comparison:
    """Carry out a plan that makes the node `name` anew, in a cache of its own that is removed
    afterwards, and compare with what was made of it before, which lies in `folder`."""
    key = plan.nodes[name].key
    beside = Cache(plan.cache.staging / f"check.{run}")
    try:
        check_space(plan)
        with Lease(plan.cache, run) as lease:
            lease.take((), [key])
            try:
                wanted = {n: node for n, node in plan.nodes.items() if node.wanted}
                tally = Tally(run, sink)
                tally.tell(announced(plan, run))
                Run(plan, beside, methods, tally, options, lambda _: None).nodes(wanted)
                again = beside.lookup(key)
                assert again is not None
                return _compare(folder, former, beside.folder(key), again)
            finally:
                if beside.root.exists():
                    remove_tree(beside.root)
    except OSError as error:
        raise failure(error, plan.cache) from error


def _compare(folder: Path, former: Manifest, beside: Path, again: Manifest) -> Comparison:
    different = []
    distance = 0.0
    names = sorted({*former.tensors, *again.tensors})
    with Files() as files:
        for name in names:
            one, other = former.tensors.get(name), again.tensors.get(name)
            if one is None or other is None or (one.dtype, one.shape) != (other.dtype, other.shape):
                different.append(name)
                continue
            readers = [
                files.reader(place / r.shard, r.offset, r.dtype, r.shape, name)
                for place, r in ((folder, one), (beside, other))
            ]
            step = _BLOCK // readers[0].itemsize
            apart = []
            for start in range(0, readers[0].count, step):
                stop = min(start + step, readers[0].count)
                blocks = [bytearray((stop - start) * readers[0].itemsize) for _ in readers]
                for reader, block in zip(readers, blocks, strict=True):
                    reader.read(start, stop, memoryview(block))
                if blocks[0] != blocks[1]:
                    apart.append(_distance(blocks[0], blocks[1], one.dtype))
            if apart:
                different.append(name)
                distance = max(distance, *apart)
    # How tensors are split into files is no part of what they are.
    apart_files = tuple(
        name
        for name in sorted({*former.files, *again.files} - {INDEX})
        if name not in again.files or _digest_of(folder / name) != again.files[name].digest
    )
    return Comparison(len(names), tuple(different), distance, apart_files)


def _digest_of(path: Path) -> str | None:
    """The digest of a small file; None if it is not there."""
    try:
        return bytes_digest(path.read_bytes())
    except OSError:
        return None


def _distance(one: bytearray, other: bytearray, dtype: str) -> float:
    from mergebuild.kernels.distance import largest_distance

    return largest_distance(one, other, dtype)
