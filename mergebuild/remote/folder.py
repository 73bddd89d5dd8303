"""A remote that is a folder: a disk, or a file share that several machines mount.

Links are not followed and only regular files are read, since others write there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import uuid
from pathlib import Path
from typing import Final

from mergebuild.files import TEMPORARY, make_directories, open_real, write_all, write_file
from mergebuild.remote.store import Absent, Damaged, Progress, Store, Unreachable

_BLOCK: Final = 1 << 22
_MODE: Final = 0o664


class FolderStore(Store):
    """Objects are files below `root`."""

    parallel = 4

    def __init__(self, url: str, root: Path) -> None:
        super().__init__(url)
        self._root = root

    def read(self, name: str, start: int, size: int) -> bytes:
        return self._read(name, start, size, None)

    def read_all(self, name: str, limit: int) -> bytes:
        return self._read(name, 0, None, limit)

    def _read(self, name: str, start: int, size: int | None, limit: int | None) -> bytes:
        try:
            descriptor = open_real(self._root / name, os.O_RDONLY)
            try:
                state = os.fstat(descriptor)
                if not stat.S_ISREG(state.st_mode):
                    raise Damaged(f"'{name}' is not a regular file")
                if limit is not None and state.st_size > limit:
                    raise Damaged(f"'{name}' has {state.st_size:,} bytes, more than {limit:,}")
                wanted = state.st_size if size is None else size
                data = bytearray(wanted)
                done = 0
                while done < wanted:
                    count = os.preadv(descriptor, [memoryview(data)[done:]], start + done)
                    if not count:
                        raise Damaged(f"'{name}' is too short")
                    done += count
                return bytes(data)
            finally:
                os.close(descriptor)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Absent(f"there is no '{name}'") from error
        except OSError as error:
            raise _failure(name, error) from error

    def size(self, name: str) -> int | None:
        try:
            state = os.lstat(self._root / name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _failure(name, error) from error
        return state.st_size if stat.S_ISREG(state.st_mode) else None

    def create(self, name: str, data: bytes) -> bool:
        path = self._root / name
        new = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY}")
        try:
            make_directories(path.parent)
            write_file(new, data, mode=_MODE)
            try:
                os.link(new, path)
            except FileExistsError:
                return False
            except OSError as error:  # a share without links
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                    raise
                if path.exists():
                    return False
                new.rename(path)
            finally:
                new.unlink(missing_ok=True)
        except OSError as error:
            raise _failure(name, error) from error
        return True

    def replace(self, name: str, data: bytes) -> None:
        try:
            make_directories((self._root / name).parent)
            write_file(self._root / name, data, mode=_MODE)
        except OSError as error:
            raise _failure(name, error) from error

    def upload(self, name: str, path: Path, size: int, progress: Progress) -> None:
        """By way of a part beside it, which one uploader at a time goes on with."""
        target = self._root / name
        part = target.with_name(f".{target.name}.part")
        try:
            make_directories(target.parent)
            descriptor = open_real(part, os.O_RDWR | os.O_CREAT)
            try:
                if not _alone(descriptor, part):
                    os.close(descriptor)
                    part = part.with_name(f"{part.name}-{uuid.uuid4().hex[:8]}")
                    descriptor = open_real(part, os.O_RDWR | os.O_CREAT | os.O_EXCL)
                _continue(descriptor, path, size, progress)
                os.fsync(descriptor)
                part.rename(target)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _failure(name, error) from error


def _alone(descriptor: int, part: Path) -> bool:
    """Whether this is the only one at work on a part, which is still where it was opened."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), os.lstat(part))
    except OSError:
        return False


def _continue(descriptor: int, path: Path, size: int, progress: Progress) -> None:
    """Copy a file; what the part holds already is compared, and kept as far as it is the same."""
    same = True
    with open(path, "rb") as file:
        at = 0
        while at < size:
            data = file.read(min(_BLOCK, size - at))
            if not data:
                raise OSError(errno.EIO, "the file is shorter than it was", str(path))
            same = same and os.pread(descriptor, len(data), at) == data
            if not same:
                write_all(descriptor, memoryview(data), at)
            at += len(data)
            progress(len(data))
    os.ftruncate(descriptor, size)


def _failure(name: str, error: OSError) -> Unreachable:
    return Unreachable(f"'{name}': {error.strerror or error}")
