"""SHA-256 of whole files: what is said of them to others, who may not trust us nor we them.

Computed a file a thread, and remembered beside the digests of tensors for as long as files stay
what they are. The Hub's cache names large files by their SHA-256: the name is held against the
content once. Knows no checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final, TypeVar

from mergebuild.checkpoint.digests import DigestMemo, Progress, check_still, identity, settled
from mergebuild.checkpoint.regular import Stamp, opened, read_exactly, stamp
from mergebuild.digest import bytes_digest
from mergebuild.errors import CheckpointError

_KIND: Final = "sha256"
_REGIONS: Final = "sha256 of regions"
_CHUNK: Final = 1 << 20
_NAME: Final = re.compile(r"[0-9a-f]{64}")

Item = TypeVar("Item")
Made = TypeVar("Made")


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
    for path, (made, mark, began) in zip(todo, _pooled(_hashed, todo, jobs, progress), strict=True):
        found[path] = made
        if settled(mark, began):
            memo.memo.put(path, _KIND, identity(mark, ""), {_KIND: made.sha256})
    return {path: known for path, known in found.items() if known is not None}


def region_hashes(
    memo: DigestMemo,
    path: Path,
    regions: Mapping[str, tuple[int, int]],
    *,
    jobs: int,
    progress: Progress,
) -> dict[str, str]:
    """SHA-256 of parts of one file, (offset, size) by name; remembered and told as `file_hashes`.

    Raises CheckpointError."""
    layout = bytes_digest(json.dumps(sorted(regions.items())).encode())
    with opened(path) as descriptor:
        began, mark = time.time_ns(), stamp(descriptor)
        known = memo.memo.get(path, _REGIONS, identity(mark, layout))
        if known is not None and known.keys() == regions.keys():
            return dict(known)
        names = list(regions)
        found = dict(
            zip(
                names,
                _pooled(
                    lambda name, told: _region(descriptor, path, *regions[name], told),
                    names,
                    jobs,
                    progress,
                ),
                strict=True,
            )
        )
        check_still(descriptor, path, mark)
    if settled(mark, began):
        memo.memo.put(path, _REGIONS, identity(mark, layout), found)
    return found


def _pooled(
    work: Callable[[Item, Progress], Made], items: list[Item], jobs: int, progress: Progress
) -> Iterator[Made]:
    """What `work` makes of each, `jobs` at a time; those under way end early on an error."""
    lock = Lock()
    failed = False

    def told(count: int) -> None:
        with lock:
            if failed:
                raise _Stopped
            progress(count)

    with ThreadPoolExecutor(max(jobs, 1), "hash") as pool:
        try:
            yield from pool.map(lambda item: work(item, told), items)
        finally:
            failed = True


def _region(descriptor: int, path: Path, start: int, size: int, progress: Progress) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(_CHUNK, size)))
    for offset in range(start, start + size, _CHUNK):
        part = buffer[: start + size - offset]
        read_exactly(descriptor, part, offset, path, "its content")
        digest.update(part)
        progress(len(part))
    return digest.hexdigest()


def _hashed(path: Path, progress: Progress) -> tuple[FileHash, Stamp, int]:
    """A file's hash, and its stamp and the time in ns when reading began."""
    with opened(path) as descriptor:
        began, mark = time.time_ns(), stamp(descriptor)
        digest = _region(descriptor, path, 0, mark.size, progress)
        check_still(descriptor, path, mark)
    named = named_hash(path)
    if named is not None and named != digest:
        raise CheckpointError.of(
            f"'{path}' in the Hub's cache is not what it is named for: its SHA-256 is {digest}",
            hint=f"it is damaged; delete '{path.resolve()}', and it is fetched again",
        )
    return FileHash(mark.size, digest), mark, began
