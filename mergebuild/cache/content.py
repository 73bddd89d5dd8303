"""Reading built checkpoints again, to tell whether they are what was written.

Knows a folder and its manifest, not the cache. Nothing is followed out of the folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mergebuild.cache.manifest import MANIFEST, Manifest, shard_layout
from mergebuild.cache.records import TensorRecord
from mergebuild.checkpoint.reader import Reader
from mergebuild.checkpoint.regular import read_exactly
from mergebuild.digest import ContentDigest, bytes_digest
from mergebuild.errors import CheckpointError

PAPERS: Final = ("README.md", "LICENSE.md")
"""What tells people of an output and is no part of the checkpoint."""
_BLOCK: Final = 1 << 22
_HEADER_LARGEST: Final = 100_000_000

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """One way in which a folder is not what was built; `tensor` where it is about one."""

    file: str
    what: str
    tensor: str = ""

    def __str__(self) -> str:
        where = f"tensor '{self.tensor}' in '{self.file}'" if self.tensor else f"'{self.file}'"
        return f"{where} {self.what}"


def no_progress(done: int) -> None:
    """Progress that nobody wants to see."""


def tensor_content(reader: Reader, progress: Progress = no_progress) -> str:
    """The content digest of a tensor as it lies there now. Raises CheckpointError."""
    content = ContentDigest(reader.dtype, reader.shape)
    step = max(1, _BLOCK // reader.itemsize)
    buffer = memoryview(bytearray(min(step, reader.count) * reader.itemsize))
    for start in range(0, reader.count, step):
        stop = min(start + step, reader.count)
        part = buffer[: (stop - start) * reader.itemsize]
        reader.read(start, stop, part)
        content.update(part)
        progress(part.nbytes)
    return content.hexdigest()


def regular(folder: Path, name: str) -> os.stat_result | None:
    """The state of a regular file below `folder` that is reached without any link."""
    parts = Path(name).parts
    try:
        for depth in range(1, len(parts)):
            if not stat.S_ISDIR(os.lstat(folder.joinpath(*parts[:depth])).st_mode):
                return None
        state = os.lstat(folder / name)
    except (OSError, ValueError):
        return None
    return state if stat.S_ISREG(state.st_mode) else None


def differences(
    folder: Path,
    manifest: Manifest,
    files: Collection[str],
    *,
    jobs: int = 1,
    progress: Progress = no_progress,
) -> list[Difference]:
    """What of `files`, which the manifest lists, is not what was written; everything is read.

    A file whose content is right gets back the time of change that the manifest gives it, so that
    the next look is quick. `progress` is told of bytes read, from any thread.
    """
    found: list[Difference] = []
    with ThreadPoolExecutor(jobs) as pool:
        for name in sorted(files):
            wrong = list(_file(folder, manifest, name, pool, progress))
            found += wrong
            if not wrong:
                _restore_time(folder / name, manifest.mtimes()[name])
    return found


def extra_files(folder: Path, manifest: Manifest) -> list[Difference]:
    """Files in the folder that no build put there."""
    known = {*manifest.file_sizes(), MANIFEST, *PAPERS}
    found = []
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in [*files, *links]:
            relative = str(Path(parent, name).relative_to(folder))
            if relative not in known:
                found.append(Difference(relative, "is extra: no build put it there"))
    return sorted(found)


def _file(
    folder: Path, manifest: Manifest, name: str, pool: ThreadPoolExecutor, progress: Progress
) -> Iterator[Difference]:
    size = manifest.file_sizes()[name]
    state = regular(folder, name)
    if state is None:
        there = os.path.lexists(folder / name)
        yield Difference(name, "is not a regular file" if there else "is missing")
        return
    if state.st_size != size:
        yield Difference(name, f"has {state.st_size:,} bytes instead of {size:,}")
        return
    path = folder / name
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        yield Difference(name, f"cannot be read: {error.strerror}")
        return
    try:
        if name in manifest.files:
            data = bytearray(size)
            read_exactly(descriptor, memoryview(data), 0, path, "its content")
            progress(size)
            if bytes_digest(data) != manifest.files[name].digest:
                yield Difference(name, "has another content")
        else:
            yield from _shard(descriptor, path, manifest, name, pool, progress)
    except CheckpointError as error:
        yield Difference(name, f"cannot be read: {error.problems[0].message}")
    finally:
        os.close(descriptor)


def _shard(
    descriptor: int,
    path: Path,
    manifest: Manifest,
    name: str,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> Iterator[Difference]:
    tensors = {n: record for n, record in manifest.tensors.items() if record.shard == name}
    size = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    header = os.pread(descriptor, 8 + min(size, _HEADER_LARGEST), 0)
    layout = shard_layout(header, ((n, tensors[n].key) for n in tensors))
    if layout != manifest.shards[name].layout:
        yield Difference(name, "has another header")

    def sound(item: tuple[str, TensorRecord]) -> bool:
        tensor, record = item
        reader = Reader(descriptor, path, record.offset, record.dtype, record.shape, tensor)
        return tensor_content(reader, progress) == record.digest

    for tensor, fine in zip(tensors, pool.map(sound, tensors.items()), strict=True):
        if not fine:
            yield Difference(name, "has another content", tensor)


def _restore_time(path: Path, mtime: int) -> None:
    state = os.lstat(path)
    if state.st_mtime_ns != mtime:
        try:
            os.utime(path, ns=(state.st_atime_ns, mtime), follow_symlinks=False)
        except OSError:
            return  # a read-only file system, or another's file: it is read again next time
