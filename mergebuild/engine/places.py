"""Where tensors are read and written during a build: sources, cache, staging, memory, scratch.

Hands out readers and writers of one tensor each; knows no methods.
"""

from __future__ import annotations

import errno
import os
import tempfile
from threading import Event, Lock
from typing import TypeAlias

from mergebuild.cache import Unsound
from mergebuild.cache.content import tensor_content
from mergebuild.cache.staging import Staging
from mergebuild.checkpoint.reader import Files, Reader
from mergebuild.engine.derived import Derivations, DerivedReader
from mergebuild.engine.memory import Held, Memory
from mergebuild.engine.operations import Operations
from mergebuild.engine.resume import staged_reader
from mergebuild.engine.ring import Landing, Ring, Target
from mergebuild.engine.rows import RowsReader
from mergebuild.engine.writer import Writer
from mergebuild.errors import CheckpointError
from mergebuild.expression import Operand
from mergebuild.files import make_directories
from mergebuild.plan import NodePlan, Plan, files_of
from mergebuild.plan.costs import tensor_bytes
from mergebuild.recipe import NodeRef

Readable: TypeAlias = Reader | DerivedReader | Held | RowsReader
"""Whatever a tensor is read from."""


class Places:
    """Opened for one build; to be closed. `stop` is set when the build is to end soon."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._cache = plan.cache
        self._lock = Lock()
        self._trusted: dict[tuple[str, str], tuple[int, int]] = {}
        self._scratch: dict[tuple[str, str], int] = {}
        self._memory = Memory()
        self._ring = Ring(2 * plan.settings.threads)
        self.files = files_of(plan.leaves.values())
        self._derivations = Derivations(self.files)
        self.operations = Operations(plan.settings.threads)
        self.cached_files = Files()
        self.staging: dict[str, Staging] = {}
        self.stop = Event()

    def writer(self, node: NodePlan, tensor: str, *, read_again: bool) -> Writer:
        """Where a tensor of a node that is being built goes; `read_again` says whether this build
        has use for it later."""
        outline = node.outline.tensors[tensor]
        task, size = (node.node.name, tensor), tensor_bytes(outline)
        landing, stream = Landing(), None
        held = self._memory.hold(task, size) if read_again else None
        if node.stored:
            descriptor, region = self.staging[node.node.name].place(tensor)
            cached = read_again and held is None
            direct = -1 if cached else self.staging[node.node.name].direct(tensor)
            stream = self._ring.stream(Target(descriptor, direct), region.offset, landing)
        elif held is None:
            descriptor = self._new_scratch(size)
            with self._lock:
                self._scratch[task] = descriptor
            stream = self._ring.stream(Target(descriptor), 0, landing)
        return Writer(outline.dtype, outline.shape, self.stop, landing, stream, held)

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

    def operand(self, node: NodePlan, operand: Operand, shape: tuple[int, ...]) -> Readable:
        """What `node` reads as an operand of this shape. Raises as `reader` does."""
        if operand.view is None:
            return self.reader(node, operand.model, operand.tensor)
        parts = [self.reader(node, part.model, part.tensor) for part in operand.view.parts]
        return RowsReader(parts, node.tables[operand.view.table], operand.dtype, shape)

    def reader(self, node: NodePlan, model: str, tensor: str) -> Reader | DerivedReader | Held:
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
            if leaf.outline.provisional and self._plan.contents is not None:
                return self._plan.contents.reader(info, self.files)
            return self.files.reader(info.file, info.offset, info.dtype, info.shape, tensor)
        producer = self._plan.nodes[reference.name]
        outline = producer.outline.tensors[tensor]
        if not producer.wanted:
            return self._cached(producer, tensor)
        held = self._memory.get((reference.name, tensor), tensor_bytes(outline))
        if held is not None:
            return Held(held, outline.dtype, outline.shape)
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
        """Nobody reads this tensor again in this build: what was kept for that can go."""
        self._memory.release((node, tensor))
        with self._lock:
            descriptor = self._scratch.pop((node, tensor), None)
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        self._ring.close()
        self._memory.close()
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
