"""The manifest: what a built checkpoint says of itself, as `mergebuild.json`.

It is the truth about a checkpoint in the cache and about a published output. Reading treats the
file as untrusted. Knows no cache layout.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

from mergebuild.checkpoint.dtypes import itemsize
from mergebuild.digest import bytes_digest, fields_digest
from mergebuild.errors import CheckpointError
from mergebuild.expression import Expression, Operand, RowsView

MANIFEST: Final = "mergebuild.json"
SCHEMA: Final = 1
_LARGEST: Final = 1 << 28
_BEGINNING: Final = b'{\n "mergebuild": '


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """A tensor as written: `offset` and `size` in bytes within `shard`, `digest` of its content."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    shard: str
    offset: int
    size: int
    digest: str
    expression: Expression


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
    """The manifest as JSON; expressions of equal method and arguments are written once."""
    forms: dict[str, int] = {}
    tensors: dict[str, Any] = {}
    for name, record in manifest.tensors.items():
        expression = record.expression
        form = json.dumps(
            {
                "method": expression.method,
                "version": expression.version,
                "base": expression.base,
                "arguments": expression.arguments,
            }
        )
        tensors[name] = {
            "key": record.key,
            "dtype": record.dtype,
            "shape": record.shape,
            "shard": record.shard,
            "offset": record.offset,
            "size": record.size,
            "digest": record.digest,
            "by": forms.setdefault(form, len(forms)),
            "from": [_operand_json(operand) for operand in expression.operands],
            **({"stream": expression.stream} if expression.stream else {}),
        }
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
    lines.append(' "expressions": [\n  ' + ",\n  ".join(forms) + "\n ]")
    rows = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in tensors.items())
    lines.append(' "tensors": {\n' + ",\n".join(rows) + "\n }")
    text = ("{\n" + ",\n".join(lines)).encode()
    return text + _seal(text)


def _operand_json(operand: Operand) -> list[Any]:
    plain: list[Any] = [operand.model, operand.tensor, operand.key, operand.dtype]
    if operand.view is not None:
        plain.append({"rows": operand.view.table, "of": [*map(_operand_json, operand.view.parts)]})
    return plain


def _operand(data: Sequence[Any]) -> Operand:
    model, tensor, key, dtype = map(str, data[:4])
    view = None
    if len(data) > 4:
        view = RowsView(str(data[4]["rows"]), tuple(map(_operand, data[4]["of"])))
    return Operand(model, tensor, key, dtype, view=view)


def _seal(text: bytes) -> bytes:
    """The manifest's last line: the digest of all before it, so that no accident goes unseen."""
    return f',\n "seal": "{bytes_digest(text)}"\n}}\n'.encode()


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a built checkpoint; None where there is none.

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
        return from_text(data)
    except ValueError as error:
        raise CheckpointError.of(f"manifest '{path}' is damaged: {error}") from error


def from_text(data: bytes) -> Manifest:
    """A manifest from untrusted text. Raises ValueError for what was not written so."""
    if len(data) > _LARGEST:
        raise ValueError("larger than 256 MiB")
    text = data[: -len(_seal(b""))]
    if data != text + _seal(text):
        raise ValueError("it is not what was written")
    try:
        return _from_json(json.loads(data))
    except (TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def claims(folder: Path) -> bool:
    """Whether mergebuild wrote this folder, even if it was damaged since."""
    try:
        with open(folder / MANIFEST, "rb") as file:
            return file.read(len(_BEGINNING)) == _BEGINNING
    except OSError:
        return False


def _from_json(data: Any) -> Manifest:
    if data["mergebuild"] != SCHEMA:
        raise ValueError(f"schema {data['mergebuild']!r} is not {SCHEMA}")
    forms = [
        (str(f["method"]), int(f["version"]), bool(f["base"]), _arguments(f["arguments"]))
        for f in data["expressions"]
    ]
    tensors = {}
    for name, entry in data["tensors"].items():
        method, version, base, arguments = forms[entry["by"]]
        shape = tuple(_count(extent) for extent in entry["shape"])
        if prod(shape) * itemsize(entry["dtype"]) != _count(entry["size"]):
            raise ValueError(f"{name!r} has another size than its shape")
        if entry["shard"] not in data["shards"]:
            raise ValueError(f"{name!r} is in no shard")
        expression = Expression(
            method=method,
            version=version,
            operands=tuple(map(_operand, entry["from"])),
            base=base,
            arguments=arguments,
            dtype=str(entry["dtype"]),
            shape=shape,
            stream=str(entry["stream"]) if "stream" in entry else None,
        )
        tensors[name] = TensorRecord(
            key=str(entry["key"]),
            dtype=expression.dtype,
            shape=shape,
            shard=plain_name(entry["shard"]),
            offset=_count(entry["offset"]),
            size=_count(entry["size"]),
            digest=str(entry["digest"]),
            expression=expression,
        )
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
    return ShardRecord(_count(data[0]), str(data[1]), int(data[2]))


def _file_record(data: Sequence[Any]) -> FileRecord:
    return FileRecord(_count(data[0]), str(data[1]), int(data[2]))


def _arguments(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}


def _count(number: int) -> int:
    if not isinstance(number, int) or not 0 <= number < 1 << 63:
        raise ValueError(f"{number!r} is not a count")
    return number


def plain_name(name: str) -> str:
    """A name of a file in the checkpoint's own folder. Raises ValueError for any other."""
    if not name or "/" in name or name in (".", ".."):
        raise ValueError(f"{name!r} is not a file name")
    return name


def inside_name(name: str) -> str:
    """A relative path that stays below the checkpoint's folder. Raises ValueError."""
    if not all(part and part not in (".", "..") for part in name.split("/")):
        raise ValueError(f"{name!r} is not a relative path")
    return name
