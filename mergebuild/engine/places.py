"""Where tensors are read and written during a build: sources, cache, staging, scratch.

Hands out readers and writers of one tensor each; knows no methods.
"""

from __future__ import annotations

import errno
import os
import tempfile
from dataclasses import dataclass
from threading import Event, Lock

from mergebuild.cache import Region, Unsound
from mergebuild.cache.content import tensor_content
from mergebuild.cache.staging import Staging
from mergebuild.checkpoint.dtypes import itemsize
from mergebuild.checkpoint.reader import Files, Reader
from mergebuild.digest import ContentDigest
from mergebuild.engine.derived import Derivations, DerivedReader
from mergebuild.engine.operations import Operations
from mergebuild.engine.resume import staged_reader
from mergebuild.errors import CheckpointError
from mergebuild.files import make_directories, write_all
from mergebuild.plan import NodePlan, Plan
from mergebuild.plan.costs import tensor_bytes
from mergebuild.recipe import NodeRef


@dataclass(slots=True)
class Writer:
    """Writes one tensor to its place, ascending, and digests it on the way."""

    descriptor: int
    offset: int
    itemsize: int
    digest: ContentDigest
    stop: Event

    def write(self, start: int, data: memoryview) -> None:
        """Write raw bytes at an element offset. KeyboardInterrupt if the build is to stop."""
        if self.stop.is_set():
            raise KeyboardInterrupt
        write_all(self.descriptor, data, self.offset + start * self.itemsize)
        self.digest.update(data)


class Places:
    """Opened for one build; to be closed. `stop` is set when the build is to end soon."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._cache = plan.cache
        self._lock = Lock()
        self._trusted: dict[tuple[str, str], tuple[int, int]] = {}
        self._scratch: dict[tuple[str, str], int] = {}
        self.files = Files(
            {
                path: stamp
                for leaf in plan.leaves.values()
                for path, stamp in leaf.checkpoint.stamps.items()
            }
        )
        self._derivations = Derivations(self.files)
        self.operations = Operations(plan.settings.threads)
        self.cached_files = Files()
        self.staging: dict[str, Staging] = {}
        self.stop = Event()

    def writer(self, node: NodePlan, tensor: str) -> Writer:
        """Where a tensor of a node that is being built goes."""
        outline = node.outline.tensors[tensor]
        if node.stored:
            descriptor, region = self.staging[node.node.name].place(tensor)
            offset = region.offset
        else:
            descriptor, offset = self._new_scratch(tensor_bytes(outline)), 0
            with self._lock:
                self._scratch[node.node.name, tensor] = descriptor
        digest = ContentDigest(outline.dtype, outline.shape)
        return Writer(descriptor, offset, itemsize(outline.dtype), digest, self.stop)

    def _new_scratch(self, size: int) -> int:
        """A file that has no name, so that it is gone when it is closed, however that happens."""
        make_directories(self._cache.staging)
        descriptor, path = tempfile.mkstemp(dir=self._cache.staging, prefix="scratch.")
        os.unlink(path)
        if size:
            try:
                os.posix_fallocate(descriptor, 0, size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    os.close(descriptor)
                    raise
        return descriptor

    def reader(self, node: NodePlan, model: str, tensor: str) -> Reader | DerivedReader:
        """A tensor that `node` calls `tensor` of `model`.

        What comes from the cache is checked when it is first asked for, and read while it is hot.
        Raises Unsound if it is damaged or gone.
        """
        reference = node.models[model]
        if not isinstance(reference, NodeRef):
            leaf = self._plan.leaves[reference]
            if tensor in leaf.derived:
                return self._derivations.reader(leaf.derived[tensor])
            info = leaf.checkpoint.tensors[tensor]
            region = Region(info.file, info.offset, info.nbytes)
            return self.files.reader(region.path, region.offset, info.dtype, info.shape, tensor)
        producer = self._plan.nodes[reference.name]
        outline = producer.outline.tensors[tensor]
        if not producer.wanted:
            return self._cached(producer, tensor)
        if producer.stored:
            return self.staged(producer, tensor)
        with self._lock:
            descriptor = self._scratch[reference.name, tensor]
        return Reader(descriptor, self._cache.staging, 0, outline.dtype, outline.shape, tensor)

    def shard(self, node: NodePlan, tensor: str) -> str:
        """The file that a tensor of a node goes to; none if it exists in flight only."""
        return self.staging[node.node.name].shard(tensor) if node.stored else ""

    def staged(self, node: NodePlan, tensor: str) -> Reader:
        """A tensor of a node that is being built, where it lies now."""
        return staged_reader(node, tensor, self.staging[node.node.name])

    def _cached(self, producer: NodePlan, tensor: str) -> Reader:
        assert producer.cached is not None
        record = producer.cached.tensors[tensor]
        path = self._cache.folder(producer.key) / record.shard
        try:
            reader = self.cached_files.reader(
                path, record.offset, record.dtype, record.shape, tensor
            )
            if (producer.key, tensor) not in self._trusted:
                before = _touched(reader.descriptor)
                if tensor_content(reader) != record.digest:
                    raise Unsound(producer.key, f"tensor '{tensor}' is not what was written")
                self._trusted[producer.key, tensor] = reader.descriptor, before
        except CheckpointError as error:
            raise Unsound(producer.key, error.problems[0].message) from error
        return reader

    def check_unchanged(self) -> None:
        """Raises CheckpointError for sources that changed since the build began, Unsound for what
        was written through in the cache."""
        self.files.check_unchanged()
        for (key, tensor), (descriptor, before) in list(self._trusted.items()):
            if _touched(descriptor) != before:
                raise Unsound(key, f"tensor '{tensor}' was touched while it was read")

    def release(self, node: str, tensor: str) -> None:
        """Nobody reads this tensor again: what is kept in flight only can go."""
        with self._lock:
            descriptor = self._scratch.pop((node, tensor), None)
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        for node, tensor in list(self._scratch):
            self.release(node, tensor)
        for staging in self.staging.values():
            staging.close()
        self._derivations.close()
        self.operations.close()
        self.files.close()
        self.cached_files.close()


def _touched(descriptor: int) -> int:
    """When an open file was last written to."""
    return os.fstat(descriptor).st_mtime_ns
