"""Writing files so that they are there and complete, or not there.

Every write goes to a sibling temporary, is fsynced and renamed. Knows nothing of checkpoints.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, TextIO

_FICLONE = 0x40049409
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2

FILE_MODE: Final = 0o664
FOLDER_MODE: Final = 0o775
"""Before the umask: nothing is ever world-writable."""
TEMPORARY: Final = ".tmp"
PAGE: Final = 4096
"""What positions, lengths and addresses are multiples of that go past the page cache."""

Placed = Literal["reflinked", "linked", "copied"]


def fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directories(path: Path) -> None:
    """Make a directory and those above it that are missing, durably."""
    if not path.is_dir():
        make_directories(path.parent)
        with suppress(FileExistsError):
            path.mkdir(mode=FOLDER_MODE)
        fsync_directory(path.parent)


def write_file(path: Path, data: bytes, *, mode: int = FILE_MODE) -> None:
    """Put `data` at `path` in one step; what was there before stays until then."""
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}{TEMPORARY}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def new_file(path: Path) -> TextIO:
    """A text file, absent so far, to be written to."""
    return open(path, "x", encoding="utf-8", opener=_new)


def open_real(path: Path, flags: int) -> int:
    """`os.open` that follows no link and waits for no pipe; to be closed."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, FILE_MODE)


def write_all(descriptor: int, data: memoryview, at: int) -> None:
    """`pwrite` until everything is written."""
    data = data.cast("B")
    while data:
        done = os.pwrite(descriptor, data, at)
        data, at = data[done:], at + done


def open_direct(path: Path, same_as: int) -> int:
    """Open a file, which is open already as `same_as`, for writes past the page cache.

    To be closed; -1 where there is no such thing, or something else lies at `path` now.
    """
    try:
        descriptor = open_real(path, os.O_WRONLY | getattr(os, "O_DIRECT", 0))
    except OSError:
        return -1
    if hasattr(os, "O_DIRECT") and os.path.samestat(os.fstat(descriptor), os.fstat(same_as)):
        return descriptor
    os.close(descriptor)
    return -1


def write_direct(descriptor: int, data: memoryview, at: int) -> memoryview:
    """Write whole pages past the page cache; returns what is left to be written through it.

    That is all of it where the file system takes no such writes or not of this alignment, and the
    rest after a short one.
    """
    while data:
        try:
            done = os.pwrite(descriptor, data, at)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return data
        data, at = data[done:], at + done
        if done % PAGE:
            return data
    return data


def place(source: Path, target: Path, *, link: bool = True) -> Placed:
    """Make `target` (absent so far) equal `source`, with its time of change: by reflink, else
    hard link, else copy. Links are not followed."""
    if _reflink(source, target):
        return "reflinked"
    if link:
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                raise
        else:
            return "linked"
    with open(source, "rb", opener=_real) as reading, open(target, "xb", opener=_new) as writing:
        shutil.copyfileobj(reading, writing, 1 << 22)
        writing.flush()
        _settle(reading.fileno(), writing.fileno())
    return "copied"


def _reflink(source: Path, target: Path) -> bool:
    if sys.platform != "linux":
        return False
    with open(source, "rb", opener=_real) as reading, open(target, "xb", opener=_new) as writing:
        try:
            fcntl.ioctl(writing.fileno(), _FICLONE, reading.fileno())
            _settle(reading.fileno(), writing.fileno())
        except OSError:
            target.unlink()
            return False
    return True


def _settle(source: int, target: int) -> None:
    """Give a copy the time of change of the original, and sync it."""
    os.fsync(target)
    state = os.stat(source)
    os.utime(target, ns=(state.st_atime_ns, state.st_mtime_ns))


def _real(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def _new(path: str, flags: int) -> int:
    return os.open(path, flags, FILE_MODE)


def replace_directory(new: Path, place: Path) -> None:
    """Put the directory `new` at `place` in one step; what was there before is then at `new` and
    is removed. A link at `place` is replaced, not followed.

    With `renameat2` the two are exchanged. Elsewhere the former one is moved aside first, and back
    if the second move fails: between the two a crash leaves nothing at `place`.
    """
    try:
        if os.path.lexists(place):
            raise FileExistsError
        new.rename(place)
    except OSError as error:
        if error.errno not in (None, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        if not _exchange(new, place):
            aside = place.with_name(f".{place.name}.{os.urandom(4).hex()}{TEMPORARY}")
            place.rename(aside)
            try:
                new.rename(place)
            except OSError:
                aside.rename(place)
                raise
            aside.rename(new)
    fsync_directory(place.parent)
    if os.path.lexists(new):
        remove_tree(new)


def _exchange(one: Path, other: Path) -> bool:
    if sys.platform != "linux":
        return False
    import ctypes

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(
        rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0
    )


def remove_tree(path: Path) -> None:
    """Remove a directory whose files and folders may be read-only."""
    if path.is_dir() and not path.is_symlink():
        for folder, _, _ in os.walk(path):
            os.chmod(folder, 0o700)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def nearest(path: Path) -> Path:
    """The path, or what of it is there already."""
    while not path.exists():
        path = path.absolute().parent
    return path


def free_bytes(path: Path) -> int:
    """Bytes that an unprivileged user may still write on the file system of `path`."""
    state = os.statvfs(nearest(path))
    return state.f_bavail * state.f_frsize
