"""Opening and reading regular files, and the stamps by which a later change is noticed.

The one place where the system's errors about checkpoint files become CheckpointErrors. Knows no
formats.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergebuild.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the file system says of a file without reading it. Times in ns since the epoch."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    links: int

    def same_content(self, other: Stamp) -> bool:
        """Whether nothing suggests that the content changed between the two.

        Making or removing a hard link moves the ctime and leaves the content: a cache that others
        publish from at the same time is unchanged.
        """
        mine = (self.device, self.inode, self.size, self.mtime_ns)
        theirs = (other.device, other.inode, other.size, other.mtime_ns)
        return mine == theirs and (self.ctime_ns == other.ctime_ns or self.links != other.links)


def stamp(file: Path | int) -> Stamp:
    """The stamp of a path or an open file. Raises OSError."""
    state = os.stat(file)
    return Stamp(
        state.st_dev,
        state.st_ino,
        state.st_size,
        state.st_mtime_ns,
        state.st_ctime_ns,
        state.st_nlink,
    )


def open_regular(path: Path) -> int:
    """Open a file for reading; to be closed with `os.close`.

    Raises CheckpointError if it cannot be read or is no regular file.
    """
    try:
        # Without O_NONBLOCK a pipe would hold the program up for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError.of(f"'{path}' is not a regular file")
    return descriptor


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """`open_regular` for the time of a block."""
    descriptor = open_regular(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_exactly(descriptor: int, view: memoryview, offset: int, path: Path, what: str) -> None:
    """Fill `view` from `offset`; `what` names what is read in the error.

    Raises CheckpointError if the file ends before or cannot be read. Safe to call from threads.
    """
    try:
        while view:
            count = os.preadv(descriptor, [view], offset)
            if count == 0:
                raise CheckpointError.of(
                    f"'{path}': the file ends within {what}",
                    hint="it was cut short; fetch it again",
                )
            view, offset = view[count:], offset + count
    except OSError as error:
        raise CheckpointError.of(
            f"'{path}': cannot read {what}: {error.strerror or error}"
        ) from error


def read_small(path: Path, limit: int) -> bytes:
    """A whole file of at most `limit` bytes. Raises CheckpointError."""
    with opened(path) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > limit:
            raise CheckpointError.of(f"'{path}' has {size} bytes, more than {limit} allowed")
        data = bytearray(size)
        read_exactly(descriptor, memoryview(data), 0, path, "its content")
    return bytes(data)


def parse_object(data: bytes, where: str, *, twins: bool = False) -> dict[str, Any]:
    """A JSON object from untrusted text. `where` begins the message of the CheckpointError.

    A key that stands twice in an object is an error, or with `twins` the last one counts.
    """
    hook = None if twins else _no_twins
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=hook)
    except UnicodeDecodeError as error:
        raise CheckpointError.of(f"{where}: not UTF-8 at byte {error.start}") from error
    except _TwinError as error:
        raise CheckpointError.of(f"{where}: key '{error}' stands there twice") from error
    except json.JSONDecodeError as error:
        raise CheckpointError.of(f"{where}: not JSON: {error}") from error
    except ValueError as error:  # a number with too many digits
        raise CheckpointError.of(f"{where}: not JSON: a number is too long") from error
    except RecursionError as error:
        raise CheckpointError.of(f"{where}: not JSON: nested too deeply") from error
    if not isinstance(value, dict):
        raise CheckpointError.of(f"{where}: not a JSON object")
    return value


class _TwinError(Exception):
    pass


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _TwinError(key)
            seen.add(key)
    return found


def unreadable(path: Path, error: OSError | ValueError) -> CheckpointError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return CheckpointError.of(f"cannot read '{path}': {reason[:1].lower()}{reason[1:]}")
