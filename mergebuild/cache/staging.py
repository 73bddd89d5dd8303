"""A checkpoint while it is being built, and the one step that makes it be there.

    staging/<key>.<run>/  journal.jsonl, and checkpoint/ with the shards at their full size

While the key is not known yet, another digest stands for it: of the node's name and its layout.
Every run stages in folders of its own, so builders need no lock to be right. A folder whose run is
dead is taken over by renaming it, which only one can do; what its journal lists is kept after its
key and content are checked. Publishing renames checkpoint/ to checkpoints/<key>: the only commit,
and the journal outlives it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from mergebuild.cache.index import Region
from mergebuild.cache.journal import JOURNAL, Finished, Journal, records
from mergebuild.cache.left import CONTENT, abandoned, laid_out, left_of, nameless, progress
from mergebuild.cache.manifest import MANIFEST
from mergebuild.cache.store import Cache, Unsound, names_in, set_aside
from mergebuild.checkpoint.safetensors import ShardPlan
from mergebuild.errors import BuildError
from mergebuild.files import (
    fsync_directory,
    make_directories,
    open_direct,
    open_real,
    place,
    remove_tree,
    write_all,
    write_file,
)

_OCCUPIED: Final = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


class Staging:
    """The folder of one checkpoint of a node that this run builds; to be published or closed.

    `key` is None as long as it is not known; then nothing is taken over, and `settle` comes before
    `publish`. `journaled` is, by tensor, what an earlier run says it had finished.
    """

    def __init__(
        self, cache: Cache, key: str | None, node: str, shards: tuple[ShardPlan, ...], run: str
    ) -> None:
        self._cache = cache
        self._run = run
        self._key = key
        self._shards = {shard.name: shard for shard in shards}
        self._where = {tensor: shard.name for shard in shards for tensor in shard.offsets}
        self._files = {shard.name for shard in shards}
        self._descriptors: dict[str, int] = {}
        self._direct: dict[str, int] = {}
        unknown = nameless(node, shards)
        self._folder = cache.staging / f"{key or unknown}.{run}"
        self._content = self._folder / CONTENT
        make_directories(cache.staging)
        self.journaled: dict[str, Finished] = {}
        if key is not None:
            own = [self._folder, cache.staging / f"{unknown}.{run}"]
            left = sorted(left_of(cache, key, node, shards), key=progress, reverse=True)
            self.journaled = self._adopt([*filter(Path.is_dir, own), *left])
        else:
            for folder in abandoned(cache, unknown):
                # One that is laid out alike came after the plan, and is somebody's to take over.
                if not laid_out(folder / CONTENT, shards):
                    remove_tree(folder)
        make_directories(self._content)
        self._journal = Journal(self._folder / JOURNAL)

    def _adopt(self, left: Iterable[Path]) -> dict[str, Finished]:
        """Take over the first of these folders that is laid out alike."""
        for folder in left:
            try:
                if folder != self._folder:
                    folder.rename(self._folder)
            except OSError:
                continue
            if laid_out(self._content, self._shards.values()):
                self._tidy()
                return dict(records(self._folder / JOURNAL))
            remove_tree(self._folder)
        return {}

    def _tidy(self) -> None:
        """Of what an earlier run left, keep only shards; all else is written again."""
        for name in names_in(self._content):
            if name not in self._shards:
                remove_tree(self._content / name)

    def allocate(self, linked: Mapping[str, Path]) -> None:
        """Make every shard at its full size; those in `linked` are taken from the cache whole.

        Raises Unsound if what is to be linked is gone, OSError if there is no space.
        """
        for shard in self._shards.values():
            path = self._content / shard.name
            if shard.name in linked:
                self._descriptors[shard.name] = self._link(linked[shard.name], path)
            else:
                descriptor = self._descriptors[shard.name] = _open_own(path)
                try:
                    os.posix_fallocate(descriptor, 0, shard.size)
                except OSError as error:
                    if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                        raise
                    os.ftruncate(descriptor, shard.size)
                write_all(descriptor, memoryview(shard.header), 0)
                self._direct[shard.name] = open_direct(path, descriptor)

    def _link(self, source: Path, path: Path) -> int:
        path.unlink(missing_ok=True)
        try:
            place(source, path)
        except FileNotFoundError as error:
            raise Unsound(source.parent.name, f"'{source.name}' is gone") from error
        return open_real(path, os.O_RDONLY)

    def shard(self, tensor: str) -> str:
        """The file that holds a tensor."""
        return self._where[tensor]

    def place(self, tensor: str) -> tuple[int, Region]:
        """The open file and the region of one tensor."""
        shard = self._shards[self._where[tensor]]
        region = Region(self._content / shard.name, shard.offsets[tensor], shard.sizes[tensor])
        return self._descriptors[shard.name], region

    def direct(self, tensor: str) -> int:
        """The file of a tensor, opened for writes past the page cache; -1 where it is not."""
        return self._direct[self._where[tensor]]

    def finish(self, tensor: str, finished: Finished) -> None:
        """Note that a tensor is written whole."""
        self._journal.note(tensor, finished)

    def write(self, name: str, data: bytes) -> None:
        """Put a side file."""
        path = self._content / name
        self._files.add(name)
        make_directories(path.parent)
        write_file(path, data)

    def seal(self) -> Mapping[str, int]:
        """Sync every file and make it read-only; the time of each one's last change, in ns.

        Raises BuildError if there is more, less or something else than was written.
        """
        for shard in self._shards.values():
            descriptor = self._descriptors[shard.name]
            same = os.fstat(descriptor).st_size == shard.size
            if not same or os.pread(descriptor, len(shard.header), 0) != shard.header:
                raise self._disturbed(shard.name)
            os.fsync(descriptor)
        (self._content / MANIFEST).unlink(missing_ok=True)
        there = {
            str(path.relative_to(self._content))
            for path in self._content.rglob("*")
            if not path.is_dir() or path.is_symlink()
        }
        for name in sorted(there ^ self._files):
            raise self._disturbed(name)
        mtimes = {}
        for name in sorted(self._files):
            state = os.lstat(self._content / name)
            os.chmod(self._content / name, stat.S_IMODE(state.st_mode) & ~0o222)
            mtimes[name] = state.st_mtime_ns
        return mtimes

    def _disturbed(self, name: str) -> BuildError:
        return BuildError.of(
            f"'{self._content / name}' was changed by another program while it was built",
            hint="run the build again",
        )

    def settle(self, key: str) -> None:
        """Learn the checkpoint's key. Raises FileNotFoundError if another run took over."""
        if self._key is None:
            folder = self._cache.staging / f"{key}.{self._run}"
            self._folder.rename(folder)
            self._key, self._folder, self._content = key, folder, folder / CONTENT

    def publish(self, manifest: bytes) -> None:
        """Make the checkpoint be there, after `seal`: the manifest last, then one rename.

        A rival that was faster wins; its checkpoint is the same. The open files stay readable
        until `close`: other nodes of the run may still be made from them.
        """
        assert self._key is not None
        write_file(self._content / MANIFEST, manifest, mode=0o444)
        target = self._cache.folder(self._key)
        make_directories(target.parent)
        while not self._commit(target, self._key):
            set_aside(self._cache, self._key)
        fsync_directory(target.parent)
        remove_tree(self._folder)

    def _commit(self, target: Path, key: str) -> bool:
        """Whether the checkpoint is there now; not if something else is in its place."""
        try:
            self._content.rename(target)
        except OSError as error:
            if error.errno not in _OCCUPIED:
                raise
            return self._cache.lookup(key) is not None
        return True

    def close(self) -> None:
        """Let go of the files. What was not published stays for a later build, if it is worth
        anything."""
        with suppress(OSError):
            if self._journal.empty and self._folder.is_dir():
                remove_tree(self._folder)
        self._journal.close()
        for descriptor in (*self._descriptors.values(), *self._direct.values()):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptors.clear()
        self._direct.clear()


def _open_own(path: Path) -> int:
    """Open a shard for writing. What an earlier run left may be read-only, or shared with another
    checkpoint, which must never be written through."""
    with suppress(FileNotFoundError):
        state = os.lstat(path)
        if stat.S_ISREG(state.st_mode) and state.st_nlink == 1:
            os.chmod(path, stat.S_IMODE(state.st_mode) | stat.S_IRUSR | stat.S_IWUSR)
        else:
            path.unlink()
    return open_real(path, os.O_RDWR | os.O_CREAT)
