"""The tensors of a file that `torch.save` wrote: a zip archive of a pickle and of storages.

A tensor whose elements lie in order is a region of the file like any other, and is read from there
without torch. The file is untrusted: whatever is wrong with it is a CheckpointError that names the
file and the tensor. Knows no directories, shards or models.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Final

from mergebuild.checkpoint.archive import Record, data_offset, read_directory
from mergebuild.checkpoint.dtypes import DTYPES
from mergebuild.checkpoint.header import TensorInfo
from mergebuild.checkpoint.regular import read_exactly
from mergebuild.checkpoint.standins import Strided
from mergebuild.checkpoint.unpickle import LARGEST, unpickle
from mergebuild.errors import CheckpointError

_WRAPPERS: Final = ("state_dict", "model_state_dict", "model", "module")
"""Where training checkpoints keep the weights."""

_MOST: Final = 2**63 - 1
_LEGACY: Final = (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"\x80\x03\x8a\nl\xfc", b"\x80\x02c")
_LFS: Final = b"version https://git-lfs"
_SAVE: Final = "load it with torch.load(weights_only=True) and save it again, best as safetensors"


def read_pickled(descriptor: int, path: Path) -> tuple[TensorInfo, ...]:
    """The tensors of an open PyTorch file, in the order of its state dict. Raises CheckpointError.

    Tensors that share a storage have regions that overlap.
    """
    _check_kind(descriptor, path)
    archive = _Archive(descriptor, path, read_directory(descriptor, path))
    state = _state(unpickle(archive.content("data.pkl", LARGEST), path), path)
    return tuple(archive.tensor(name, value) for name, value in state.items())


def _check_kind(descriptor: int, path: Path) -> None:
    size = os.fstat(descriptor).st_size
    start = bytearray(min(size, 64))
    read_exactly(descriptor, memoryview(start), 0, path, "its start")
    if start.startswith(b"PK\3\4"):
        return
    if start.startswith(_LEGACY):
        raise _bad(path, "a PyTorch file in the format from before 1.6", hint=_SAVE)
    if start.startswith(_LFS):
        raise _bad(path, "a pointer of git-lfs, not the file itself", hint="run `git lfs pull`")
    raise _bad(path, "not a PyTorch file", hint="it is damaged, or of another format")


def _state(value: Any, path: Path) -> Mapping[str, Strided]:
    """The state dict, which may lie in a training checkpoint. Raises CheckpointError."""
    if isinstance(value, dict) and not any(isinstance(v, Strided) for v in value.values()):
        inner = [value[key] for key in _WRAPPERS if isinstance(value.get(key), dict)]
        value = inner[0] if len(inner) == 1 else value
    if not isinstance(value, dict):
        raise _bad(path, "its pickle is not a state dict", hint=_SAVE)
    for name, tensor in value.items():
        if not isinstance(name, str):
            raise _bad(path, f"its state dict has the key {name}, which is no name", hint=_SAVE)
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise _bad(path, f"tensor name {name!r:.80} is not valid text") from error
        if not isinstance(tensor, Strided):
            kind = type(tensor).__name__
            hint = "a state dict holds tensors only; save just that"
            raise _bad(path, f"it is no tensor, but of type {kind}", name, hint=hint)
    return value


@dataclass(slots=True)
class _Archive:
    """The records of one file below its own top folder, and where those asked for lie."""

    descriptor: int
    path: Path
    records: Mapping[str, Record]
    folder: str = ""
    offsets: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [name for name in self.records if name.endswith("/data.pkl")]
        if len(names) != 1 or names[0].count("/") != 1:
            raise _bad(self.path, "a zip archive, but not one of PyTorch's", hint=_SAVE)
        self.folder = names[0].removesuffix("data.pkl")
        if f"{self.folder}constants.pkl" in self.records:
            hint = "save its state_dict(), best as safetensors"
            raise _bad(self.path, "a TorchScript program, not a checkpoint", hint=hint)
        if f"{self.folder}byteorder" in self.records:
            order = self.content("byteorder", 16)
            if order != b"little":
                raise _bad(self.path, "its numbers are big-endian", hint=_SAVE)

    def record(self, name: str) -> Record:
        record = self.records.get(self.folder + name)
        if record is None:
            raise _bad(self.path, f"record '{name:.80}' is not there")
        if record.name not in self.offsets:
            self.offsets[record.name] = data_offset(self.descriptor, self.path, record)
        return record

    def content(self, name: str, limit: int) -> bytes:
        record = self.record(name)
        if record.size > limit:
            raise _bad(
                self.path, f"record '{name}' has {record.size} bytes, more than {limit} allowed"
            )
        data = bytearray(record.size)
        at = self.offsets[record.name]
        read_exactly(self.descriptor, memoryview(data), at, self.path, f"record '{name}'")
        return bytes(data)

    def tensor(self, name: str, tensor: Strided) -> TensorInfo:
        """Where a tensor lies, if it fits its storage and its elements lie in order."""
        storage, item = tensor.storage, DTYPES[tensor.dtype].size
        record = self.record(f"data/{storage.key}")
        unit = DTYPES[storage.dtype].size if storage.dtype is not None else 1
        if storage.count * unit != record.size:
            raise _bad(
                self.path,
                f"its storage has {record.size} bytes, but {storage.count * unit} are said",
                name,
            )
        count = prod(tensor.shape) if len(tensor.shape) <= 64 else _MOST
        if count > _MOST:
            raise _bad(self.path, "its shape is too large", name)
        if len(tensor.shape) != len(tensor.strides):
            raise _bad(self.path, "its shape and its strides differ in length", name)
        if not _in_order(tensor):
            raise _bad(
                self.path,
                f"its elements do not lie in order: shape {list(tensor.shape)}, strides "
                f"{list(tensor.strides)}",
                name,
                hint="call .contiguous() on it and save the file again, best as safetensors",
            )
        begin, size = tensor.offset * item, count * item
        if count and begin + size > record.size:
            raise _bad(self.path, f"goes past the end of its storage '{storage.key:.40}'", name)
        offset = self.offsets[record.name] + (begin if count else 0)
        return TensorInfo(name, tensor.dtype, tensor.shape, self.path, offset, size)


def _in_order(tensor: Strided) -> bool:
    """Whether the elements lie one after the other; a dimension of 1 has any stride."""
    step = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if size == 0:
            return True
        if size > 1 and stride != step:
            return 0 in tensor.shape
        step *= size
    return True


def _bad(
    path: Path, message: str, tensor: str | None = None, *, hint: str | None = None
) -> CheckpointError:
    about = f"tensor '{tensor}': " if tensor is not None else ""
    return CheckpointError.of(
        f"'{path}': {about}{message}", hint=hint or "the file is damaged; fetch it again"
    )
