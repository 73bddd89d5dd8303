"""Remotes by way of fsspec: whatever a file system of it can do, in terms of objects.

Google Cloud Storage and the Hugging Face Hub are reached so; S3 has more of its own in `s3.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from mergebuild.remote.store import (
    Absent,
    Damaged,
    Interrupted,
    Progress,
    RemoteError,
    Store,
    Unreachable,
)

_BLOCK: Final = 1 << 22
T = TypeVar("T")


class FileSystemStore(Store):
    """Objects are files below `root` of a file system. `exclusive` says that it can put a file
    that must not be there already in one step; else it is looked for before."""

    def __init__(
        self, url: str, fs: Any, root: str, *, exclusive: bool = True, parallel: int = 16
    ) -> None:
        super().__init__(url)
        self._fs = fs
        self._root = root.rstrip("/")
        self._exclusive = exclusive
        self.parallel = parallel

    def read(self, name: str, start: int, size: int) -> bytes:
        with translated(name):
            data = bytes(self._fs.cat_file(self._path(name), start=start, end=start + size))
        if len(data) != size:
            raise Damaged(f"'{name}': {len(data):,} bytes came instead of {size:,}")
        return data

    def read_all(self, name: str, limit: int) -> bytes:
        with translated(name):
            data = bytes(self._fs.cat_file(self._path(name), start=0, end=limit + 1))
        if len(data) > limit:
            raise Damaged(f"'{name}' has more than {limit:,} bytes")
        return data

    def size(self, name: str) -> int | None:
        try:
            with translated(name):
                self._fs.invalidate_cache()
                found = self._fs.info(self._path(name))
        except Absent:
            return None
        size = found.get("size")
        return size if isinstance(size, int) and found.get("type") == "file" else None

    def create(self, name: str, data: bytes) -> bool:
        if not self._exclusive:
            if self.size(name) is not None:
                return False
            self.replace(name, data)
            return True
        try:
            with translated(name):
                self._make_parent(name)
                self._fs.pipe_file(self._path(name), data, mode="create")
        except Occupied:
            return False
        return True

    def replace(self, name: str, data: bytes) -> None:
        with translated(name):
            self._make_parent(name)
            self._fs.pipe_file(self._path(name), data)

    def upload(self, name: str, path: Path, size: int, progress: Progress) -> None:
        with translated(name), open(path, "rb") as source:
            self._make_parent(name)
            with self._fs.open(self._path(name), "wb", block_size=8 * _BLOCK) as target:
                shutil.copyfileobj(_Counted(source.read, progress), target, _BLOCK)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _make_parent(self, name: str) -> None:
        self._fs.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)


class Occupied(RemoteError):
    """There is such an object already."""


class _Counted:
    """A file that is read, telling how much."""

    def __init__(self, read: Callable[[int], bytes], progress: Progress) -> None:
        self._read = read
        self._progress = progress

    def read(self, size: int = _BLOCK) -> bytes:
        data = self._read(size)
        self._progress(len(data))
        return data


@contextmanager
def translated(name: str) -> Iterator[None]:
    """A client's errors, which may be of any kind, as RemoteErrors."""
    try:
        yield
    except RemoteError:
        raise
    except FileNotFoundError as error:
        raise Absent(f"there is no '{name}'") from error
    except FileExistsError as error:
        raise Occupied(f"'{name}' is there already") from error
    except PermissionError as error:
        raise Unreachable(f"'{name}': {error}") from error
    except Exception as error:
        if said := status_of(error):
            raise _by_status(said, name, error) from error
        raise Interrupted(f"'{name}': {type(error).__name__}: {error}") from error


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status that a client's error, or what caused it, carries."""
    while error is not None:
        answer = getattr(error, "response", None)
        if isinstance(answer, dict):  # botocore's
            found = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        elif type(error).__name__ == "HttpError":  # gcsfs's
            found = getattr(error, "code", None)
        else:  # httpx's and requests'
            found = getattr(answer, "status_code", None)
        if isinstance(found, int):
            return found
        error = error.__cause__
    return None


def _by_status(status: int, name: str, error: Exception) -> RemoteError:
    if status == 404:
        return Absent(f"there is no '{name}'")
    if status == 412:
        return Occupied(f"'{name}' is there already")
    if status == 416:
        return Damaged(f"'{name}' is too short")
    lasting = 400 <= status < 500 and status not in (408, 409, 429)
    kind = Unreachable if lasting else Interrupted
    return kind(f"'{name}': {error} (status {status})")
