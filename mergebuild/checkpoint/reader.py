"""Reading tensors from open files, by element, from any number of threads.

Knows regions of files, dtypes and shapes; no headers and no checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

from mergebuild.checkpoint.dtypes import DTYPES
from mergebuild.checkpoint.regular import Stamp, open_regular, read_exactly, stamp
from mergebuild.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Reader:
    """One tensor in an open file; `offset` in bytes. `path` and `tensor` are for messages."""

    descriptor: int
    path: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]
    tensor: str

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype].size

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.count * self.itemsize

    def read(self, start: int, stop: int, into: memoryview) -> None:
        """Raw bytes of the elements from `start` up to `stop`, filling `into` exactly.

        Raises CheckpointError if the file ends too early or cannot be read.
        """
        item = self.itemsize
        if not 0 <= start <= stop <= self.count or into.nbytes != (stop - start) * item:
            raise ValueError(
                f"[{start}, {stop}) of {self.count} elements of {item} bytes into {into.nbytes}"
            )
        if start == stop:
            return
        view = into.cast("B")
        at = self.offset + start * item
        read_exactly(self.descriptor, view, at, self.path, f"tensor '{self.tensor}'")


class Files:
    """Files held open, each once; to be closed. Reading and opening are safe from threads.

    `expected` are the stamps that files had when they were looked at before: one that has another
    when it is opened was changed meanwhile.
    """

    def __init__(self, expected: Mapping[Path, Stamp] | None = None) -> None:
        self._expected = dict(expected or {})
        self._lock = Lock()
        self._open: dict[Path, tuple[int, Stamp]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def reader(
        self, path: Path, offset: int, dtype: str, shape: tuple[int, ...], tensor: str
    ) -> Reader:
        """A reader of one tensor. Raises CheckpointError if the file cannot be opened."""
        return Reader(self._descriptor(path), path, offset, dtype, tuple(shape), tensor)

    @property
    def expected_bytes(self) -> int:
        """What the files hold that were looked at before."""
        return sum(mark.size for mark in self._expected.values())

    def forget(self, path: Path, offset: int, size: int) -> None:
        """Tell the system that nobody reads these bytes again, so that it keeps others. Advice:
        where it takes none, nothing is lost."""
        if size and hasattr(os, "posix_fadvise"):  # no bytes would mean all up to the end
            descriptor = self._descriptor(path)
            with suppress(OSError):
                os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_DONTNEED)

    def check_unchanged(self) -> None:
        """Raises CheckpointError naming the files that changed since they were opened."""
        with self._lock:
            files = {
                path: mark
                for path, (_, mark) in sorted(self._open.items(), key=lambda item: item[0])
            }
        for path, mark in files.items():
            check_unchanged(path, mark)

    def close(self) -> None:
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1][0])

    def _descriptor(self, path: Path) -> int:
        with self._lock:
            if path not in self._open:
                descriptor = open_regular(path)
                mark = stamp(descriptor)
                expected = self._expected.get(path)
                if expected is not None and not mark.same_content(expected):
                    os.close(descriptor)
                    raise changed(path)
                self._open[path] = descriptor, mark
            return self._open[path][0]


def check_unchanged(path: Path, mark: Stamp) -> None:
    """Raises CheckpointError unless what lies at `path` is what it was at `mark`."""
    try:
        now = stamp(path)
    except OSError as error:
        raise changed(path) from error
    if not now.same_content(mark):
        raise changed(path)


def changed(path: Path) -> CheckpointError:
    return CheckpointError.of(
        f"'{path}' changed while it was being read",
        hint="run again when nothing writes to it any more",
    )
