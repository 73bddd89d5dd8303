"""The directory of a zip archive: which records it holds, and where in the file their bytes lie.

Just what PyTorch's files need: records that are stored as they are, on one disk, not encrypted.
The file is untrusted; whatever is wrong with it is a CheckpointError that names it. Knows nothing
of what the records hold.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from mergebuild.checkpoint.regular import read_exactly
from mergebuild.errors import CheckpointError

LARGEST: Final = 100_000_000
"""Bytes that the directory of an archive may have."""

_END: Final = struct.Struct("<4s4H2LH")
_LOCATOR: Final = struct.Struct("<4sLQL")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_COMMENT_LONGEST: Final = 0xFFFF
_IN_EXTRA: Final = 0xFFFFFFFF
_ZIP64: Final = 1
_ENCRYPTED: Final = 1
_FETCH: Final = "the file is damaged or was cut short; fetch it again"
_SAVE: Final = "write it again with torch.save, or convert it to safetensors"


@dataclass(frozen=True, slots=True)
class Record:
    """One record: `header` is where its local header begins, `size` its bytes once unpacked."""

    name: str
    header: int
    size: int
    stored: bool
    encrypted: bool


class _Directory(NamedTuple):
    offset: int
    size: int
    entries: int


def read_directory(descriptor: int, path: Path) -> Mapping[str, Record]:
    """The records of an open zip archive by name, in the order of its directory.

    Raises CheckpointError.
    """
    size = os.fstat(descriptor).st_size
    place = _find(descriptor, path, size)
    if place.size > LARGEST:
        raise _bad(path, f"a directory of {place.size} bytes, more than {LARGEST} allowed")
    data = bytearray(place.size)
    read_exactly(descriptor, memoryview(data), place.offset, path, "its directory")
    found: dict[str, Record] = {}
    for record in _entries(path, bytes(data), place.entries):
        if found.setdefault(record.name, record) is not record:
            raise _bad(path, f"record '{record.name}' stands there twice")
    return found


def data_offset(descriptor: int, path: Path, record: Record) -> int:
    """Where in the file the bytes of a record begin: `record.size` of them, as they are.

    Raises CheckpointError for a record that is compressed or encrypted, or does not fit the file.
    """
    if record.encrypted:
        raise _bad(path, f"record '{record.name}' is encrypted", _SAVE)
    if not record.stored:
        raise _bad(path, f"record '{record.name}' is compressed", _SAVE)
    size = os.fstat(descriptor).st_size
    if record.header + _LOCAL.size > size:
        raise _bad(path, f"record '{record.name}' begins past the end of the file")
    header = bytearray(_LOCAL.size)
    read_exactly(descriptor, memoryview(header), record.header, path, f"record '{record.name}'")
    mark, *_, name_length, extra_length = _LOCAL.unpack(header)
    if mark != b"PK\3\4":
        raise _bad(path, f"record '{record.name}' has no header")
    begin: int = record.header + _LOCAL.size + name_length + extra_length
    if begin + record.size > size:
        raise _bad(path, f"record '{record.name}' goes past the end of the file")
    return begin


def _find(descriptor: int, path: Path, size: int) -> _Directory:
    length = min(size, _END.size + _COMMENT_LONGEST)
    tail = bytearray(length)
    read_exactly(descriptor, memoryview(tail), size - length, path, "its end")
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > length:
        raise _bad(path, "no directory at its end")
    _, disk, start_disk, here, count, bytes_, offset, comment = _END.unpack_from(tail, at)
    if at + _END.size + comment != length:
        raise _bad(path, "more follows after its directory")
    if disk or start_disk or here != count:
        raise _bad(path, "an archive of several parts", _SAVE)
    end = size - length + at
    locator_at = end - _LOCATOR.size
    if locator_at >= 0:
        locator = bytearray(_LOCATOR.size)
        read_exactly(descriptor, memoryview(locator), locator_at, path, "its end")
        if locator[:4] == b"PK\6\7":
            return _find64(descriptor, path, locator_at, bytes(locator))
    return _checked(path, _Directory(offset, bytes_, count), end)


def _find64(descriptor: int, path: Path, end: int, locator: bytes) -> _Directory:
    _, _, offset, _ = _LOCATOR.unpack(locator)
    if offset + _END64.size > end:
        raise _bad(path, "its directory is not where it says")
    data = bytearray(_END64.size)
    read_exactly(descriptor, memoryview(data), offset, path, "its end")
    mark, _, _, _, disk, start_disk, here, count, size, start = _END64.unpack(data)
    if mark != b"PK\6\6":
        raise _bad(path, "its directory is not where it says")
    if disk or start_disk or here != count:
        raise _bad(path, "an archive of several parts", _SAVE)
    return _checked(path, _Directory(start, size, count), offset)


def _checked(path: Path, place: _Directory, end: int) -> _Directory:
    if place.offset + place.size > end:
        raise _bad(path, "its directory is not where it says")
    if place.entries * _ENTRY.size > place.size:
        raise _bad(path, f"{place.entries} records do not fit into its directory")
    return place


def _entries(path: Path, data: bytes, count: int) -> Iterator[Record]:
    at = 0
    for _ in range(count):
        if at + _ENTRY.size > len(data):
            raise _bad(path, "its directory ends too early")
        fields = _ENTRY.unpack_from(data, at)
        mark, flags, method = fields[0], fields[3], fields[4]
        packed, size = fields[8], fields[9]
        name_length, extra_length, comment_length, offset = (*fields[10:13], fields[16])
        begin = at + _ENTRY.size
        at = begin + name_length + extra_length + comment_length
        if mark != b"PK\1\2" or at > len(data):
            raise _bad(path, "its directory is damaged")
        name = _text(path, data[begin : begin + name_length])
        extra = data[begin + name_length : begin + name_length + extra_length]
        size, packed, offset = _wide(path, name, extra, (size, packed, offset))
        stored = method == 0
        if stored and packed != size:
            raise _bad(path, f"record '{name}' has two sizes")
        yield Record(name, offset, size, stored, bool(flags & _ENCRYPTED))
    if at != len(data):
        raise _bad(path, "its directory is longer than its records")


def _wide(path: Path, name: str, extra: bytes, short: tuple[int, int, int]) -> tuple[int, ...]:
    """Sizes and offset, those too large for 32 bits from the extra field."""
    if _IN_EXTRA not in short:
        return short
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        at += 4
        if kind == _ZIP64:
            wanted = short.count(_IN_EXTRA)
            if length < 8 * wanted or at + 8 * wanted > len(extra):
                break
            wide = iter(struct.unpack_from(f"<{wanted}Q", extra, at))
            return tuple(next(wide) if value == _IN_EXTRA else value for value in short)
        at += length
    raise _bad(path, f"record '{name}' does not say where it lies")


def _text(path: Path, name: bytes) -> str:
    try:
        text = name.decode()
    except UnicodeDecodeError as error:
        raise _bad(path, "the name of a record is not valid text") from error
    if not text.isprintable():
        raise _bad(path, f"the name of record {text!r:.80} is not printable")
    return text


def _bad(path: Path, message: str, hint: str = _FETCH) -> CheckpointError:
    return CheckpointError.of(f"'{path}': {message}", hint=hint)
