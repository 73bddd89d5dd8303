"""The pieces of a SentencePiece model: a protocol buffer, read by hand.

    ModelProto      field 1, repeated: SentencePiece     (others are skipped)
    SentencePiece   field 1: the piece, UTF-8            (score and type are skipped)

What is in the file is untrusted. Knows nothing else of the format.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mergebuild.errors import CheckpointError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST: Final = 1 << 24


def read_pieces(data: bytes, where: str) -> Iterator[str]:
    """The pieces in the order of their numbers. Raises CheckpointError; `where` begins it."""
    count = 0
    try:
        for field, value in _fields(data):
            if field == 1 and isinstance(value, bytes):
                count += 1
                if count > _MOST:
                    raise ValueError("too many pieces")
                yield next(
                    (v for f, v in _fields(value) if f == 1 and isinstance(v, bytes)), b""
                ).decode("utf-8")
    except ValueError as error:
        raise CheckpointError.of(f"{where}: not a SentencePiece model: {error}") from error
    if not count:
        raise CheckpointError.of(f"{where}: not a SentencePiece model: it has no pieces")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of every field of a message; a fixed-size value comes as its bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == _VARINT:
            number, at = _varint(data, at)
            yield tag >> 3, number
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if size > len(data) - at:
            raise ValueError(f"it ends within the field at byte {at}")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends within a number")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError(f"a number of more than 64 bits before byte {at}")
