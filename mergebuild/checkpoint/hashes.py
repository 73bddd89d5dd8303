"""SHA-256 of whole files: what is said of them to others, who may not trust us nor we them.

Computed a file a thread, and remembered beside the digests of tensors for as long as files stay
what they are. The Hub's cache names large files by their SHA-256: the name is held against the
content once. Knows no checkpoints.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

from mergebuild.checkpoint.digests import DigestMemo, Progress, check_still, identity, settled
from mergebuild.checkpoint.regular import Stamp, opened, read_exactly, stamp
from mergebuild.errors import CheckpointError

_KIND: Final = "sha256"
_CHUNK: Final = 1 << 20
_NAME: Final = re.compile(r"[0-9a-f]{64}")


class _Stopped(Exception):
    """Another file failed, or the user had enough."""


@dataclass(frozen=True, slots=True)
class FileHash:
    """A file's size in bytes and SHA-256, 64 hexadecimal digits."""

    size: int
    sha256: str


def named_hash(path: Path) -> str | None:
    """The SHA-256 that the Hub's cache gives a file as its name; None if it lies elsewhere."""
    try:
        blob = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return None
    return blob.name if blob.parent.name == "blobs" and _NAME.fullmatch(blob.name) else None


def file_hashes(
    memo: DigestMemo, files: Iterable[Path], *, jobs: int, progress: Progress
) -> dict[Path, FileHash]:
    """The hashes of files, in their order.

    `progress` is told of bytes as they are hashed, not of what is remembered; from any thread, one
    at a time. Raises CheckpointError for a file that cannot be read, that changes meanwhile, or
    that the Hub's cache has under another's name.
    """
    found: dict[Path, FileHash | None] = {}
    for path in files:
        with opened(path) as descriptor:
            mark = stamp(descriptor)
        known = memo.memo.get(path, _KIND, identity(mark, ""))
        sound = known is not None and list(known) == [_KIND]
        found[path] = FileHash(mark.size, known[_KIND]) if known is not None and sound else None
    todo = [path for path, known in found.items() if known is None]
    for path, (made, mark, began) in zip(todo, _run(todo, jobs, progress), strict=True):
        found[path] = made
        if settled(mark, began):
            memo.memo.put(path, _KIND, identity(mark, ""), {_KIND: made.sha256})
    return {path: known for path, known in found.items() if known is not None}


def _run(files: list[Path], jobs: int, progress: Progress) -> Iterator[tuple[FileHash, Stamp, int]]:
    """What `_hashed` says of each, `jobs` at a time; those under way end early on an error."""
    lock = Lock()
    failed = False

    def told(count: int) -> None:
        with lock:
            if failed:
                raise _Stopped
            progress(count)

    with ThreadPoolExecutor(max(jobs, 1), "hash") as pool:
        try:
            yield from pool.map(lambda path: _hashed(path, told), files)
        finally:
            failed = True


def _hashed(path: Path, progress: Progress) -> tuple[FileHash, Stamp, int]:
    """A file's hash, and its stamp and the time in ns when reading began."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    with opened(path) as descriptor:
        began, mark = time.time_ns(), stamp(descriptor)
        for offset in range(0, mark.size, _CHUNK):
            part = buffer[: min(_CHUNK, mark.size - offset)]
            read_exactly(descriptor, part, offset, path, "its content")
            digest.update(part)
            progress(len(part))
        check_still(descriptor, path, mark)
    named = named_hash(path)
    if named is not None and named != digest.hexdigest():
        raise CheckpointError.of(
            f"'{path}' in the Hub's cache is not what it is named for: its SHA-256 is "
            f"{digest.hexdigest()}",
            hint=f"it is damaged; delete '{path.resolve()}', and it is fetched again",
        )
    return FileHash(mark.size, digest.hexdigest()), mark, began
