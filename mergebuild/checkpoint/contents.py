"""Content digests of tensors of sources, each found when it is first asked for.

For a build that begins before anybody has read its sources. Knows no files that changed: who reads
them looks at their stamps.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock, local
from typing import Final, TypeAlias

from mergebuild.checkpoint.header import TensorInfo
from mergebuild.checkpoint.reader import Files, Reader
from mergebuild.checkpoint.regular import read_exactly
from mergebuild.digest import BLOCK, block_digest, content_digest

_PART: Final = 8
"""Blocks of a large tensor that one thread digests at a time."""

Work: TypeAlias = Callable[[], None]


class Contents:
    """From any thread. `began` is when nothing of them had been read, in ns since the epoch."""

    def __init__(self) -> None:
        self.began = time.time_ns()
        self._lock = Lock()
        self._found: dict[TensorInfo, str] = {}
        self._busy: defaultdict[TensorInfo, Lock] = defaultdict(Lock)
        self._own = local()

    def known(self, tensor: TensorInfo) -> str | None:
        """The digest of a tensor, if somebody has found it."""
        return self._found.get(tensor)

    def learn(self, tensor: TensorInfo, digest: str) -> None:
        """Take in a digest that was found on the way."""
        self._found[tensor] = digest

    def digest(
        self,
        tensor: TensorInfo,
        files: Files,
        share: Callable[[Sequence[Work]], None] | None = None,
    ) -> str:
        """The digest of a tensor, which is read if nobody has read it; `share` does work on more
        threads. Raises CheckpointError."""
        found = self._found.get(tensor)
        if found is not None:
            return found
        with self._lock:
            busy = self._busy[tensor]
        with busy:
            if tensor not in self._found:
                self._found[tensor] = self._read(tensor, files, share)
        return self._found[tensor]

    def _read(
        self,
        tensor: TensorInfo,
        files: Files,
        share: Callable[[Sequence[Work]], None] | None,
    ) -> str:
        reader = files.reader(tensor.file, tensor.offset, tensor.dtype, tensor.shape, tensor.name)
        count = -(-tensor.nbytes // BLOCK)
        blocks = [b""] * count
        parts = [partial(self._part, reader, blocks, at) for at in range(0, count, _PART)]
        if share is not None and len(parts) > 1:
            share(parts)
        else:
            for part in parts:
                part()
        return content_digest(tensor.dtype, tensor.shape, blocks)

    def _part(self, reader: Reader, blocks: list[bytes], first: int) -> None:
        what, size = f"tensor '{reader.tensor}'", reader.nbytes
        for number in range(first, min(first + _PART, len(blocks))):
            start = number * BLOCK
            part = self._buffer[: min(BLOCK, size - start)]
            read_exactly(reader.descriptor, part, reader.offset + start, reader.path, what)
            blocks[number] = block_digest(part)

    @property
    def _buffer(self) -> memoryview:
        """A block of this thread's own."""
        if not hasattr(self._own, "buffer"):
            self._own.buffer = memoryview(bytearray(BLOCK))
        buffer: memoryview = self._own.buffer
        return buffer
