"""Digests: XXH3-128 over an encoding that no two different inputs share.

Owns the encoding and its version. Knows nothing of the rest of the program. XXH3 resists
accidents, not attackers.

    encoding  magic, schema, domain, number of fields, then (name, value) of each field
    value     a tag byte; a length before everything that has one; numbers big-endian

A tensor's content is a tree: one digest per 4 MiB of raw bytes, and a digest of (dtype, shape,
those), so that blocks may be hashed in parallel and in any order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

import xxhash

KEY_SCHEMA: Final = 1
"""Part of every digest: to be raised when the encoding or the meaning of a key changes."""

BLOCK: Final = 1 << 22
"""Bytes of a tensor or file that are hashed as one; part of what a content digest means."""

Buffer: TypeAlias = "bytes | bytearray | memoryview[int] | memoryview[float]"
FieldValue: TypeAlias = "bool | int | float | str | bytes | tuple[FieldValue, ...] | None"

_MAGIC: Final = b"mergebuild"
_DIGITS: Final = 32
"""Hexadecimal digits of a digest."""
_LENGTH: Final = struct.Struct(">Q")


def fields_digest(domain: str, fields: Iterable[tuple[str, FieldValue]]) -> str:
    """The digest of named values in their order, 32 hexadecimal digits.

    Equal only for equal domains, names, types and values: True, 1 and 1.0 differ, 0.0 and -0.0
    do not. Raises ValueError for NaN, TypeError for what is no FieldValue.
    """
    return encoded_digest(encode(domain, fields))


def encode(domain: str, fields: Iterable[tuple[str, FieldValue]]) -> bytes:
    """What `fields_digest` hashes. Injective."""
    listed = list(fields)
    return encode_beginning(domain, len(listed), listed)


def encode_beginning(domain: str, count: int, fields: Iterable[tuple[str, FieldValue]]) -> bytes:
    """The beginning of what `encode` makes of `count` fields: as far as the first of them, given
    here, reach. Each of the others follows as `encode_field` has it."""
    parts = [_head(domain, KEY_SCHEMA), _LENGTH.pack(count)]
    for name, value in fields:
        if type(value) is str:  # by far the commonest
            data = value.encode("utf-8", "surrogatepass")
            parts += _before_text(name, len(data)), data
        else:
            parts += _name(name), *_value(value)
    return b"".join(parts)


def encode_field(name: str, value: FieldValue) -> bytes:
    """One field of an encoding."""
    return b"".join([_name(name), *_value(value)])


def encoded_digest(encoded: bytes) -> str:
    """The digest of an encoding."""
    return str(xxhash.xxh3_128_hexdigest(encoded))


def open_encoding(beginning: bytes, names: Iterable[str]) -> str:
    """An encoding, in Latin-1, that goes on with fields of these names whose values are digests:
    each is left open for one, as `%` fills it in."""
    fields = [_before_text(name, _DIGITS).decode("latin-1") + "%s" for name in names]
    return beginning.decode("latin-1").replace("%", "%%") + "".join(fields)


def filled_digest(encoding: str, digests: tuple[str, ...], rest: bytes = b"") -> str:
    """The digest of an open encoding with these digests in it, and what follows on it."""
    return encoded_digest((encoding % digests).encode("latin-1") + rest)


@lru_cache(maxsize=1 << 8)
def _head(domain: str, schema: int) -> bytes:
    return b"".join([_MAGIC, struct.pack(">I", schema), *_sized(b"s", _text(domain))])


def _name(name: str) -> bytes:
    return b"".join(_sized(b"s", _text(name)))


@lru_cache(maxsize=1 << 14)
def _before_text(name: str, length: int) -> bytes:
    """The encoding of a field of text, up to its `length` bytes."""
    return b"%bs%b" % (_name(name), _LENGTH.pack(length))


def _value(value: FieldValue) -> Iterator[bytes]:
    if value is None:
        yield b"n"
    elif isinstance(value, bool):
        yield b"t" if value else b"f"
    elif isinstance(value, int):
        yield from _sized(b"i", value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    elif isinstance(value, float):
        if value != value:
            raise ValueError("NaN has no digest")
        yield b"d" + struct.pack(">d", value + 0.0)  # -0.0 + 0.0 is 0.0
    elif isinstance(value, str):
        yield from _sized(b"s", _text(value))
    elif isinstance(value, bytes):
        yield from _sized(b"b", value)
    elif isinstance(value, tuple):
        yield b"(" + _LENGTH.pack(len(value))
        for item in value:
            yield from _value(item)
    else:
        raise TypeError(f"{type(value).__name__} has no digest")


def _sized(tag: bytes, data: bytes) -> tuple[bytes, bytes]:
    return tag + _LENGTH.pack(len(data)), data


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def block_digest(data: Buffer) -> bytes:
    """The digest of one block, 16 bytes."""
    return bytes(xxhash.xxh3_128_digest(data))


def content_digest(dtype: str, shape: Sequence[int], blocks: Sequence[bytes]) -> str:
    """The digest of a tensor, given `block_digest` of each BLOCK of its raw bytes in order.

    The last block is what remains; an empty tensor has none.
    """
    return fields_digest(
        "tensor content", [("dtype", dtype), ("shape", tuple(shape)), ("blocks", tuple(blocks))]
    )


class ContentDigest:
    """`content_digest` of a tensor whose raw bytes come in ascending chunks of any size."""

    __slots__ = ("_blocks", "_dtype", "_filled", "_open", "_shape")

    def __init__(self, dtype: str, shape: Sequence[int]) -> None:
        self._dtype = dtype
        self._shape = tuple(shape)
        self._blocks: list[bytes] = []
        self._open = xxhash.xxh3_128()
        self._filled = 0

    def update(self, data: Buffer) -> None:
        view = memoryview(data)
        if not view.nbytes:
            return
        view = view.cast("B")
        while len(view):
            if not self._filled and len(view) >= BLOCK:
                self._blocks.append(block_digest(view[:BLOCK]))
                view = view[BLOCK:]
                continue
            part = view[: BLOCK - self._filled]
            self._open.update(part)
            self._filled += len(part)
            view = view[len(part) :]
            if self._filled == BLOCK:
                self._blocks.append(self._open.digest())
                self._open.reset()
                self._filled = 0

    def extend(self, rest: ContentDigest) -> None:
        """Take in the bytes that another one, of the same tensor, was given; they follow those
        of this one, which are whole BLOCKs."""
        if self._filled:
            raise ValueError(f"{self._filled} bytes beyond the last whole block")
        self._blocks += rest._blocks
        self._open, self._filled = rest._open, rest._filled

    def hexdigest(self) -> str:
        """32 hexadecimal digits; more data may follow."""
        rest = [self._open.digest()] if self._filled else []
        return content_digest(self._dtype, self._shape, self._blocks + rest)


def file_digest(size: int, blocks: Sequence[bytes]) -> str:
    """The digest of a side file, given `block_digest` of each BLOCK of it in order."""
    return fields_digest("file content", [("size", size), ("blocks", tuple(blocks))])


def bytes_digest(data: Buffer) -> str:
    """The digest of a side file's content; never that of a tensor of the same bytes."""
    view = memoryview(data).cast("B")
    blocks = [block_digest(view[i : i + BLOCK]) for i in range(0, len(view), BLOCK)]
    return file_digest(len(view), blocks)
