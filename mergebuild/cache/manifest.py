"""The manifest: what a built checkpoint says of itself, as `mergebuild.json`.

It is the truth about a checkpoint in the cache and about a published output. Reading treats the
file as untrusted. Knows no cache layout.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from mergebuild.cache.records import TensorRecord, count, plain_name, record_lines, records_of
from mergebuild.digest import Buffer, bytes_digest, fields_digest
from mergebuild.errors import CheckpointError

MANIFEST: Final = "mergebuild.json"
SCHEMA: Final = 1
_LARGEST: Final = 1 << 28
_BEGINNING: Final = b'{\n "mergebuild": '
_TENSORS: Final = b',\n "expressions": [\n'
"""Where the tensors begin. Within JSON text no line can end, so this is no part of a value."""
_STRANGE: Final = (TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError)
"""What untrusted JSON of another form raises where it is used."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file besides the weights: its size in bytes, the digest of its content, and the time of
    its last change in ns since the epoch."""

    size: int
    digest: str
    mtime: int


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A file of weights. `layout` is the digest of its tensors' names, keys and places, `mtime`
    the time of its last change in ns since the epoch."""

    size: int
    layout: str
    mtime: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checkpoint's record. `provenance` tells where it comes from; it is for readers, and
    nothing is decided from it."""

    key: str
    node: str
    created: str
    versions: Mapping[str, str]
    tensors: Mapping[str, TensorRecord]
    shards: Mapping[str, ShardRecord]
    files: Mapping[str, FileRecord]
    provenance: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes of everything that the manifest lists."""
        return sum(self.file_sizes().values())

    def file_sizes(self) -> dict[str, int]:
        """Every file that the manifest lists, with its size in bytes."""
        shards = {name: record.size for name, record in self.shards.items()}
        return shards | {name: record.size for name, record in self.files.items()}

    def mtimes(self) -> dict[str, int]:
        """Every file that the manifest lists, with the time of its last change. Another time
        says that the file was touched, and has to be read to know whether it is what it was."""
        shards = {name: record.mtime for name, record in self.shards.items()}
        return shards | {name: record.mtime for name, record in self.files.items()}


def checkpoint_digest(tensors: Mapping[str, str], files: Mapping[str, str]) -> str:
    """A checkpoint's key: what it is, from the keys of its tensors and the digests of the side
    files that make it work."""
    return fields_digest(
        "checkpoint",
        [*sorted(tensors.items()), *((f"file {name}", files[name]) for name in sorted(files))],
    )


def shard_layout(header: bytes, keys: Iterable[tuple[str, str]]) -> str:
    """The digest of all that a shard holds: its header, and its tensors' names and keys."""
    return fields_digest("shard", [("header", header), *sorted(keys)])


def to_text(manifest: Manifest) -> bytes:
    """The manifest as JSON; what can be read without the tensors stands before them."""
    head = {
        "mergebuild": SCHEMA,
        "key": manifest.key,
        "node": manifest.node,
        "created": manifest.created,
        "versions": dict(manifest.versions),
        "provenance": dict(manifest.provenance),
        "files": {name: [f.size, f.digest, f.mtime] for name, f in manifest.files.items()},
        "shards": {name: [s.size, s.layout, s.mtime] for name, s in manifest.shards.items()},
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    text = ("{\n" + ",\n".join([*lines, *record_lines(manifest.tensors)])).encode()
    return text + _seal(text)


def _seal(text: Buffer) -> bytes:
    """The manifest's last line: the digest of all before it, so that no accident goes unseen."""
    return f',\n "seal": "{bytes_digest(text)}"\n}}\n'.encode()


def read_manifest(folder: Path, *, later: bool = False) -> Manifest | None:
    """The manifest of a built checkpoint; None where there is none. `later` has its tensors read
    from what it holds now when they are first looked at, which raises CheckpointError, too.

    Raises CheckpointError when it is damaged or of another schema.
    """
    path = folder / MANIFEST
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise CheckpointError.of(f"manifest '{path}' is not a regular file")
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CheckpointError.of(f"cannot read manifest '{path}': {error.strerror}") from error
    try:
        return _with_tensors_later(data, path) if later else from_text(data)
    except ValueError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: ValueError) -> CheckpointError:
    return CheckpointError.of(f"manifest '{path}' is damaged: {error}")


def from_text(data: bytes) -> Manifest:
    """A manifest from untrusted text. Raises ValueError for what was not written so."""
    _check_seal(data)
    whole = _parsed(data)
    try:
        return _head(whole, records_of(whole, whole["shards"]))
    except _STRANGE as error:
        raise ValueError(str(error)) from error


def _with_tensors_later(data: bytes, path: Path) -> Manifest:
    """As `from_text`, with the tensors of what lies at `path` read when they are looked at."""
    _check_seal(data)
    end = data.find(_TENSORS)
    if end < 0:
        return from_text(data)
    try:
        return _head(_parsed(data[:end] + b"}"), _Later(data, path))
    except _STRANGE as error:
        raise ValueError(str(error)) from error


def _check_seal(data: bytes) -> None:
    if len(data) > _LARGEST:
        raise ValueError("larger than 256 MiB")
    text = memoryview(data)[: -len(_seal(b""))]
    if data[len(text) :] != _seal(text):
        raise ValueError("it is not what was written")


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError(str(error)) from error


class _Later(Mapping[str, TensorRecord]):
    """The tensors of a sealed manifest, each as `from_text` has it, or CheckpointError."""

    def __init__(self, data: bytes, path: Path) -> None:
        self._data = data
        self._path = path

    @cached_property
    def _all(self) -> Mapping[str, TensorRecord]:
        try:
            return from_text(self._data).tensors
        except ValueError as error:
            raise _damaged(self._path, error) from error

    def __getitem__(self, name: str) -> TensorRecord:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


def claims(folder: Path) -> bool:
    """Whether mergebuild wrote this folder, even if it was damaged since."""
    try:
        with open(folder / MANIFEST, "rb") as file:
            return file.read(len(_BEGINNING)) == _BEGINNING
    except OSError:
        return False


def _head(data: Any, tensors: Mapping[str, TensorRecord]) -> Manifest:
    if data["mergebuild"] != SCHEMA:
        raise ValueError(f"schema {data['mergebuild']!r} is not {SCHEMA}")
    return Manifest(
        key=str(data["key"]),
        node=str(data["node"]),
        created=str(data["created"]),
        versions=dict(data["versions"]),
        tensors=tensors,
        shards={plain_name(n): _shard_record(v) for n, v in data["shards"].items()},
        files={inside_name(n): _file_record(v) for n, v in data["files"].items()},
        provenance=dict(data["provenance"]),
    )


def _shard_record(data: Sequence[Any]) -> ShardRecord:
    return ShardRecord(count(data[0]), str(data[1]), int(data[2]))


def _file_record(data: Sequence[Any]) -> FileRecord:
    return FileRecord(count(data[0]), str(data[1]), int(data[2]))


def inside_name(name: str) -> str:
    """A relative path that stays below the checkpoint's folder. Raises ValueError."""
    if not all(part and part not in (".", "..") for part in name.split("/")):
        raise ValueError(f"{name!r} is not a relative path")
    return name
