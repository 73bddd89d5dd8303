"""Content digests of tensors of sources: found while they are read for something else, or when
they are first asked for.

For a build that begins before anybody has read its sources. Knows no files that changed: who reads
them looks at their stamps.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock, get_ident, local
from typing import Final, TypeAlias

import xxhash

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
        self._taps: dict[TensorInfo, _Tap] = {}
        self._own = local()

    def known(self, tensor: TensorInfo) -> str | None:
        """The digest of a tensor, if somebody has found it."""
        return self._found.get(tensor)

    def learn(self, tensor: TensorInfo, digest: str) -> None:
        """Take in a digest that was found on the way."""
        self._found[tensor] = digest
        self._taps.pop(tensor, None)

    def reader(self, tensor: TensorInfo, files: Files) -> Reader:
        """A reader of a tensor. Where nobody has read it, what is read of it is digested on the
        way: if that comes to be all of it, in runs that ascend, its digest is known then. Raises
        CheckpointError."""
        plain = files.reader(tensor.file, tensor.offset, tensor.dtype, tensor.shape, tensor.name)
        if tensor in self._found:
            return plain
        with self._lock:
            tap = self._taps.get(tensor)
            if tap is None:
                tap = self._taps[tensor] = _Tap(tensor, self.learn)
        return _TappedReader(
            plain.descriptor, plain.path, plain.offset, plain.dtype, plain.shape, plain.tensor, tap
        )

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
                self.learn(tensor, self._read(tensor, files, share))
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


@dataclass(frozen=True, slots=True)
class _TappedReader(Reader):
    tap: _Tap

    def read(self, start: int, stop: int, into: memoryview) -> None:
        Reader.read(self, start, stop, into)
        self.tap.take(start * self.itemsize, into.cast("B"))


class _Tap:
    """Digests of the blocks of one tensor, of bytes as they are read, from any thread.

    A thread has one block open, whose bytes it must read in order; what follows on nothing is let
    go by up to the next block. `learn` is told when all blocks were there.
    """

    def __init__(self, tensor: TensorInfo, learn: Callable[[TensorInfo, str], None]) -> None:
        self._tensor = tensor
        self._learn = learn
        self._blocks: dict[int, bytes] = {}
        self._open: dict[int, tuple[int, xxhash.xxh3_128]] = {}

    def take(self, at: int, data: memoryview) -> None:
        """Bytes that were read from `at` on."""
        size = self._tensor.nbytes
        place, hasher = self._open.pop(get_ident(), (-1, None))
        while data:
            number, within = divmod(at, BLOCK)
            part = data[: BLOCK - within]
            if place != at or not within:
                hasher = xxhash.xxh3_128() if not within and number not in self._blocks else None
            if hasher is not None:
                hasher.update(part)
            at, data = at + len(part), data[len(part) :]
            place = at
            if hasher is not None and (at % BLOCK == 0 or at == size):
                self._close(number, hasher.digest())
        if hasher is not None and at % BLOCK:
            self._open[get_ident()] = at, hasher

    def _close(self, number: int, digest: bytes) -> None:
        self._blocks[number] = digest
        count = -(-self._tensor.nbytes // BLOCK)
        if len(self._blocks) == count:
            blocks = [self._blocks[one] for one in range(count)]
            tensor = self._tensor
            self._learn(tensor, content_digest(tensor.dtype, tensor.shape, blocks))
