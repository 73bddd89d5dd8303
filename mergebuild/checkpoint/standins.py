"""What the names in a state dict's pickle stand for: storages, dtypes, and tensors described but
not made.

The table of everything that a pickle may name and call; nothing here runs what the pickle says.
Knows no opcodes and no files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

_STORAGES: Final = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
    "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
}  # fmt: skip
_DTYPES: Final = frozenset({
    *_STORAGES.values(), "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2",
    "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
})  # fmt: skip
_REBUILD: Final = frozenset({"_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter"})


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage by the key of its record: `count` elements of `dtype` (None: bytes)."""

    key: str
    dtype: str | None
    count: int


@dataclass(frozen=True, slots=True)
class Strided:
    """A tensor as its pickle describes it, in elements of its storage; nothing is checked yet."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Global:
    """A stand-in: `kind` is dict, storage, dtype or rebuild."""

    kind: str
    name: str


class Refused(Exception):
    """A pickle that says more than a state dict may; the message names what."""


def named(module: str, name: str) -> Global:
    if (module, name) == ("collections", "OrderedDict"):
        return Global("dict", name)
    if module == "torch._utils" and name in _REBUILD:
        return Global("rebuild", name)
    if module == "torch" and name in _STORAGES:
        return Global("storage", _STORAGES[name])
    if module == "torch.storage" and name == "UntypedStorage":
        return Global("storage", "")
    if module == "torch" and name in _DTYPES:
        return Global("dtype", name)
    raise Refused(f"its pickle names '{module:.60}.{name:.60}', which is not allowed")


def storage(pid: Any) -> Storage:
    match pid:
        case ("storage", Global("storage", dtype), str(key), str(), int(count)) if count >= 0:
            return Storage(key, dtype or None, count)
    raise Refused("its pickle refers to a storage in an unknown form")


def reduced(function: Global, arguments: tuple[Any, ...]) -> Any:
    match function, arguments:
        case Global("dict"), ():
            return {}
        case Global("rebuild", "_rebuild_parameter"), (Strided() as tensor, *_):
            return tensor
        case (
            Global("rebuild", "_rebuild_tensor_v2"),
            (Storage() as storage, offset, shape, strides, _, _, *more),
        ) if storage.dtype is not None:
            return _strided(storage, storage.dtype, offset, shape, strides, more)
        case (
            Global("rebuild", "_rebuild_tensor_v3"),
            (Storage() as storage, offset, shape, strides, _, _, Global("dtype", dtype), *more),
        ):
            return _strided(storage, dtype, offset, shape, strides, more)
    raise Refused(f"its pickle calls '{function.name}' with unknown arguments")


def _strided(
    storage: Storage, dtype: str, offset: Any, shape: Any, strides: Any, more: list[Any]
) -> Strided:
    numbers = [offset]
    for listed in (shape, strides):
        if type(listed) is not tuple or len(listed) > 64:
            raise Refused("a tensor in its pickle has no proper shape")
        numbers += listed
    if not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers):
        raise Refused("a tensor in its pickle has no proper shape")
    if any(more):
        raise Refused("a tensor in its pickle is a view that still has to be conjugated or negated")
    return Strided(storage, dtype, offset, shape, strides)
