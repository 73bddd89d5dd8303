"""The header of a safetensors file: read from an open file and checked in every respect.

    u64 length, little-endian · JSON of that length · data

The file is untrusted. Whatever is wrong with it is a CheckpointError that names the file and the
tensor, before a byte of data is read. Knows no directories, shards or models.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from mergebuild.checkpoint.dtypes import BY_CODE, DType
from mergebuild.checkpoint.regular import parse_object, read_exactly
from mergebuild.errors import CheckpointError

LARGEST: Final = 100_000_000
"""Bytes of JSON that a header may have; the same limit as the safetensors library's."""

_MOST: Final = 2**63 - 1
_METADATA: Final = "__metadata__"
_KEYS: Final = frozenset({"dtype", "shape", "data_offsets"})
_FETCH: Final = "the file is damaged or was cut short; fetch it again"
_NOT_ONE: Final = "it is no safetensors file, or is damaged"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: `offset` absolute within `file`, `nbytes` of it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """A sound header; `tensors` in the order of their offsets."""

    tensors: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]


def read_header(descriptor: int, path: Path) -> Header:
    """The header of an open safetensors file. Raises CheckpointError."""
    size = os.fstat(descriptor).st_size
    if size < 8:
        raise _bad(path, f"{size} bytes are too few for a header", hint=_FETCH)
    prefix = bytearray(8)
    read_exactly(descriptor, memoryview(prefix), 0, path, "its header")
    length = int.from_bytes(prefix, "little")
    if length == 0:
        raise _bad(path, "the header is empty", hint=_NOT_ONE)
    if length > LARGEST:
        raise _bad(path, f"a header of {length} bytes, more than {LARGEST} allowed", hint=_NOT_ONE)
    if length > size - 8:
        raise _bad(path, f"a header of {length} bytes, but only {size - 8} follow", hint=_FETCH)
    text = bytearray(length)
    read_exactly(descriptor, memoryview(text), 8, path, "its header")
    entries = parse_object(bytes(text), f"'{path}': header")
    metadata = _metadata(entries.pop(_METADATA, None), path)
    start = 8 + length
    tensors = [_tensor(path, name, entry, start, size) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    _check_cover(path, tensors, start, size)
    return Header(tuple(tensors), metadata)


def _metadata(value: Any, path: Path) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise _bad(path, f"'{_METADATA}' does not map text to text")
    return value


def _tensor(path: Path, name: str, entry: Any, start: int, size: int) -> TensorInfo:
    _check_name(path, name)
    if not isinstance(entry, dict):
        raise _bad(path, "its entry is not an object", name)
    for key in entry:
        if key not in _KEYS:
            raise _bad(path, f"unknown key '{key}'", name)
    for key in ("dtype", "shape", "data_offsets"):
        if key not in entry:
            raise _bad(path, f"no '{key}'", name)
    dtype = _dtype(path, name, entry["dtype"])
    shape = _shape(path, name, entry["shape"])
    begin, end = _span(path, name, entry["data_offsets"])
    if end > size - start:
        raise _bad(
            path, f"ends at byte {end} of the data, which has {size - start}", name, hint=_FETCH
        )
    needed = _product(shape) * dtype.size
    if end - begin != needed:
        listed = ", ".join(map(str, shape))
        raise _bad(
            path, f"has {end - begin} bytes, but {dtype.name} [{listed}] takes {needed}", name
        )
    return TensorInfo(name, dtype.name, shape, path, start + begin, end - begin)


def _check_name(path: Path, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise _bad(path, f"tensor name {name!r} is not valid text") from error


def _dtype(path: Path, name: str, code: Any) -> DType:
    if not isinstance(code, str):
        raise _bad(path, "its dtype is not text", name)
    if code not in BY_CODE:
        raise _bad(path, f"unknown dtype '{code}'", name, hint=f"known are: {', '.join(BY_CODE)}")
    return BY_CODE[code]


def _shape(path: Path, name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise _bad(path, "its shape is not a list", name)
    for dim in value:
        if type(dim) is not int:
            raise _bad(path, f"{_show(dim)} in its shape is not an integer", name)
        if dim < 0:
            raise _bad(path, f"{_show(dim)} in its shape is negative", name)
    if _product(value) > _MOST:
        raise _bad(path, "its shape is too large", name)
    return tuple(value)


def _span(path: Path, name: str, value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise _bad(path, "its data_offsets are not a pair", name)
    for offset in value:
        if type(offset) is not int:
            raise _bad(path, f"{_show(offset)} in its data_offsets is not an integer", name)
        if not 0 <= offset <= _MOST:
            raise _bad(path, f"{_show(offset)} in its data_offsets is out of range", name)
    begin, end = value
    if begin > end:
        raise _bad(path, f"its data_offsets {begin} and {end} are reversed", name)
    return begin, end


def _product(shape: tuple[int, ...] | list[int]) -> int:
    """As `math.prod`, without the cost of ever longer numbers; above `_MOST` is above it."""
    if 0 in shape:
        return 0 if all(dim <= _MOST for dim in shape) else _MOST + 1
    product = 1
    for dim in shape:
        product *= dim
        if product > _MOST:
            return _MOST + 1
    return product


def _check_cover(path: Path, tensors: list[TensorInfo], start: int, size: int) -> None:
    """Tensors must lie end to end, from the start of the data to the end of the file."""
    if tensors and tensors[0].offset > start:
        name = tensors[0].name
        raise _bad(path, f"a gap of {tensors[0].offset - start} bytes before it", name)
    for one, next_one in pairwise(tensors):
        gap = next_one.offset - (one.offset + one.nbytes)
        if gap < 0:
            raise _bad(path, f"overlaps tensor '{one.name}'", next_one.name)
        if gap > 0:
            raise _bad(path, f"a gap of {gap} bytes before it", next_one.name)
    end = tensors[-1].offset + tensors[-1].nbytes if tensors else start
    if end < size:
        raise _bad(path, f"{size - end} bytes after the last tensor")


def _show(value: Any) -> str:
    """A short form of what stands in the file: numbers there may have thousands of digits."""
    text = repr(value) if not isinstance(value, int) or abs(value) <= 2**64 else "a huge number"
    return text if len(text) <= 40 else text[:40] + "..."


def _bad(
    path: Path, message: str, tensor: str | None = None, *, hint: str | None = None
) -> CheckpointError:
    about = f"tensor '{tensor}': " if tensor is not None else ""
    return CheckpointError.of(f"'{path}': {about}{message}", hint=hint)
