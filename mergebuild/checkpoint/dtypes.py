"""Names, sizes and promotion of dtypes, as torch has them, and their codes in safetensors.

Knows no files and no tensors. Types smaller than a byte are not here: they are not supported.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class DType:
    """`code` is its name in safetensors, `size` that of an element in bytes."""

    name: str
    code: str
    size: int
    floating: bool = False


DTYPES: Final = {
    dtype.name: dtype
    for dtype in (
        DType("float64", "F64", 8, floating=True),
        DType("float32", "F32", 4, floating=True),
        DType("float16", "F16", 2, floating=True),
        DType("bfloat16", "BF16", 2, floating=True),
        DType("float8_e4m3fn", "F8_E4M3", 1, floating=True),
        DType("float8_e5m2", "F8_E5M2", 1, floating=True),
        DType("float8_e4m3fnuz", "F8_E4M3FNUZ", 1, floating=True),
        DType("float8_e5m2fnuz", "F8_E5M2FNUZ", 1, floating=True),
        DType("float8_e8m0fnu", "F8_E8M0", 1, floating=True),
        DType("complex64", "C64", 8),
        DType("int64", "I64", 8),
        DType("int32", "I32", 4),
        DType("int16", "I16", 2),
        DType("int8", "I8", 1),
        DType("uint64", "U64", 8),
        DType("uint32", "U32", 4),
        DType("uint16", "U16", 2),
        DType("uint8", "U8", 1),
        DType("bool", "BOOL", 1),
    )
}
BY_CODE: Final = {dtype.code: dtype for dtype in DTYPES.values()}


def itemsize(dtype: str) -> int:
    """Bytes of an element. Raises KeyError for a dtype that is unknown."""
    return DTYPES[dtype].size


def is_floating(dtype: str) -> bool:
    """Whether a dtype has real floating-point values (complex64 has not)."""
    return DTYPES[dtype].floating


def is_float8(dtype: str) -> bool:
    return dtype.startswith("float8")


def promote(dtypes: Iterable[str]) -> str:
    """The dtype that holds the values of all: the widest; float32 where two widest differ.

    As `torch.promote_types`, which refuses to promote float8; here it is as narrow as it looks.
    Raises ValueError for none at all and for dtypes that are not floating.
    """
    names = set(dtypes)
    if not names or not all(is_floating(name) for name in names):
        raise ValueError(f"cannot promote {', '.join(sorted(names)) or 'nothing'}")
    width = max(map(itemsize, names))
    widest = sorted(name for name in names if itemsize(name) == width)
    return widest[0] if len(widest) == 1 else "float32"
