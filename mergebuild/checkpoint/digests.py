"""Digests of what sources hold: computed in parallel, and remembered for as long as files stay
what they are.

A remembered digest is used only for a file whose path, device, inode, size, times and header are
those of old. Knows no recipes and no keys of nodes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Final, Self

from mergebuild.checkpoint.contents import Contents
from mergebuild.checkpoint.header import TensorInfo
from mergebuild.checkpoint.memo import Memo
from mergebuild.checkpoint.reader import changed, check_unchanged
from mergebuild.checkpoint.regular import Stamp, opened, read_exactly, stamp
from mergebuild.checkpoint.source import Checkpoint
from mergebuild.digest import BLOCK, block_digest, bytes_digest, content_digest, file_digest

_SETTLED_NS: Final = 2_000_000_000
_SMALL: Final = 1 << 20
_TENSORS: Final = "tensors"
_FILE: Final = "file"

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class _Block:
    """One block of a region: where in the file it lies, and where its digest goes."""

    offset: int
    size: int
    what: str
    digests: list[bytes]
    number: int


class DigestMemo:
    """Computes digests and remembers them in the database at `path`; to be closed.

    The database, `memo`, may be deleted, damaged, locked or read-only: then digests are computed
    again.
    """

    def __init__(self, path: Path) -> None:
        self.memo = Memo(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.memo.close()

    def remembered(self, checkpoint: Checkpoint) -> dict[str, str] | None:
        """Content digests of all tensors by name, None unless all are remembered. Raises
        CheckpointError for a file that changed since the checkpoint was opened."""
        found: dict[str, str] = {}
        for file in checkpoint.files:
            known = self._remembered(file, checkpoint.stamps[file], _within(checkpoint, file))
            if known is None:
                return None
            found.update(known)
        return {name: found[name] for name in checkpoint.tensors}

    def tensor_digests(
        self,
        checkpoint: Checkpoint,
        *,
        jobs: int,
        progress: Progress,
        contents: Contents | None = None,
    ) -> dict[str, str]:
        """Content digests of all tensors by name, in the order of the names; those in `contents`
        are taken from there.

        `progress` is told of every so many bytes as they are digested, not of what is remembered;
        from any thread, one at a time. Raises CheckpointError for a file that cannot be read, or
        that changed since the checkpoint was opened.
        """
        found: dict[str, str] = {}
        for file in checkpoint.files:
            mark, tensors = checkpoint.stamps[file], _within(checkpoint, file)
            known = self._remembered(file, mark, tensors)
            if known is None:
                known = self._found(file, mark, tensors, jobs, progress, contents)
            found.update(known)
        return {name: found[name] for name in checkpoint.tensors}

    def file_digest(self, path: Path) -> str:
        """The digest of a side file: `bytes_digest` of its content. Raises CheckpointError."""
        with opened(path) as descriptor:
            began, mark = time.time_ns(), stamp(descriptor)
            if mark.size <= _SMALL:
                data = bytearray(mark.size)
                read_exactly(descriptor, memoryview(data), 0, path, "its content")
                check_still(descriptor, path, mark)
                return bytes_digest(data)
            known_as = identity(mark, "")
            known = self.memo.get(path, _FILE, known_as)
            if known is not None and list(known) == [""]:
                return known[""]
            blocks: list[bytes] = []
            todo = list(_blocks(0, mark.size, "its content", blocks))
            _run(descriptor, path, todo, 1, lambda _: None)
            check_still(descriptor, path, mark)
        digest = file_digest(mark.size, blocks)
        if settled(mark, began):
            self.memo.put(path, _FILE, known_as, {"": digest})
        return digest

    def _remembered(
        self, file: Path, mark: Stamp, tensors: Sequence[TensorInfo]
    ) -> Mapping[str, str] | None:
        check_unchanged(file, mark)
        known = self.memo.get(file, _TENSORS, _known_as(mark, tensors))
        return known if known is not None and known.keys() == {t.name for t in tensors} else None

    def _found(
        self,
        file: Path,
        mark: Stamp,
        tensors: Sequence[TensorInfo],
        jobs: int,
        progress: Progress,
        contents: Contents | None,
    ) -> Mapping[str, str]:
        began = contents.began if contents is not None else time.time_ns()
        digests = {t.name: contents.known(t) for t in tensors} if contents is not None else {}
        unread = [t for t in tensors if digests.get(t.name) is None]
        blocks: dict[str, list[bytes]] = {t.name: [] for t in unread}
        with opened(file) as descriptor:
            check_still(descriptor, file, mark)
            todo = [
                block
                for t in sorted(unread, key=lambda t: t.offset)
                for block in _blocks(t.offset, t.nbytes, f"tensor '{t.name}'", blocks[t.name])
            ]
            _run(descriptor, file, todo, jobs, progress)
            check_still(descriptor, file, mark)
        check_unchanged(file, mark)
        found = {name: digest for name, digest in digests.items() if digest is not None}
        found.update((t.name, content_digest(t.dtype, t.shape, blocks[t.name])) for t in unread)
        if settled(mark, began):
            self.memo.put(file, _TENSORS, _known_as(mark, tensors), found)
        return found


def _within(checkpoint: Checkpoint, file: Path) -> list[TensorInfo]:
    return [tensor for tensor in checkpoint.tensors.values() if tensor.file == file]


def _known_as(mark: Stamp, tensors: Sequence[TensorInfo]) -> str:
    layout = [(t.name, t.dtype, t.shape, t.offset) for t in tensors]
    return identity(mark, bytes_digest(json.dumps(layout).encode()))


def _blocks(offset: int, size: int, what: str, digests: list[bytes]) -> Iterator[_Block]:
    count = -(-size // BLOCK)
    digests.extend([b""] * count)
    for number in range(count):
        start = number * BLOCK
        yield _Block(offset + start, min(BLOCK, size - start), what, digests, number)


def _run(
    descriptor: int, path: Path, todo: Sequence[_Block], jobs: int, progress: Progress
) -> None:
    """Digest blocks in the order of the file, on `jobs` threads with a buffer each."""
    lock = Lock()
    left = iter(todo)
    failed = False

    def work(_: int) -> None:
        nonlocal failed
        buffer = memoryview(bytearray(BLOCK))
        done = 0
        try:
            while True:
                with lock:
                    if done:
                        progress(done)
                    block = None if failed else next(left, None)
                if block is None:
                    return
                part = buffer[: block.size]
                read_exactly(descriptor, part, block.offset, path, block.what)
                block.digests[block.number] = block_digest(part)
                done = block.size
        except BaseException:
            failed = True
            raise

    if jobs <= 1 or len(todo) <= 1:
        work(0)
        return
    with ThreadPoolExecutor(jobs, "digest") as pool:
        try:
            list(pool.map(work, range(min(jobs, len(todo)))))
        except BaseException:
            failed = True
            raise


def identity(mark: Stamp, layout: str) -> str:
    """What must be as it was for a remembered digest to be true of a file."""
    return ":".join(
        map(str, (mark.device, mark.inode, mark.size, mark.mtime_ns, mark.ctime_ns, layout))
    )


def settled(mark: Stamp, began: int) -> bool:
    """Whether a later change of the file would be seen by its times: a file that was written
    just now may change again without them."""
    return max(mark.mtime_ns, mark.ctime_ns) < began - _SETTLED_NS


def check_still(descriptor: int, path: Path, mark: Stamp) -> None:
    """Raises CheckpointError for an open file that changed since `mark`."""
    try:
        now = stamp(descriptor)
    except OSError as error:
        raise changed(path) from error
    if not now.same_content(mark):
        raise changed(path)
