"""Matrices walked across: readers and a writer of the transpose of what there is.

Memory is that of a strip of columns for each operand, and of the output. Knows no operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from mergebuild.kernels.interface import SIZES
from mergebuild.kernels.walk import Help, Reader, Writer

_STRIP: Final = 1 << 22
"""Bytes, about, that are read of an operand at a time."""
_PIECE: Final = 1 << 20


def turned(readers: Sequence[Reader]) -> list[Reader]:
    return [TurnedReader(reader) for reader in readers]


def turned_help(help: Help) -> Help:
    """Other threads, for the same matrices across."""
    return Help(help.share, lambda: turned(help.readers()))


class TurnedReader:
    """A matrix (rows, columns) as (columns, rows). Used by one thread."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._rows, self._columns = reader.shape
        self._size = SIZES[reader.dtype]
        self._width = max(1, min(self._columns, _STRIP // (self._rows * self._size)))
        self._first = -1
        self._strip = np.empty((self._width, self._rows), f"u{self._size}")

    @property
    def dtype(self) -> str:
        return self._reader.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._columns, self._rows

    def read(self, start: int, stop: int, into: memoryview) -> None:
        out = np.frombuffer(into, self._strip.dtype)
        per = self._width * self._rows
        for first in range(start // per, -(-stop // per)):
            self._load(first * self._width)
            low, high = max(start, first * per), min(stop, (first + 1) * per)
            there = self._strip.reshape(-1)[low - first * per : high - first * per]
            out[low - start : high - start] = there

    def _load(self, first: int) -> None:
        """Have the strip of columns from `first` on."""
        if first == self._first:
            return
        self._first = -1
        width = min(self._width, self._columns - first)
        piece = max(1, _PIECE // (width * self._size))
        room = np.empty((piece, width), self._strip.dtype)
        for row in range(0, self._rows, piece):
            count = min(piece, self._rows - row)
            for at in range(count):
                begin = (row + at) * self._columns + first
                self._reader.read(begin, begin + width, room[at].view(np.uint8).data)
            self._strip[:width, row : row + count] = room[:count].T
        self._first = first


class TurnedWriter:
    """Takes a matrix (columns, rows) and, when it is `finished`, writes (rows, columns)."""

    unit = 1

    def __init__(self, writer: Writer, shape: tuple[int, ...], dtype: str) -> None:
        self._writer = writer
        self._size = SIZES[dtype]
        self._made = np.empty(shape, f"u{self._size}")

    def part(self, start: int) -> TurnedWriter:
        return self

    def flush(self) -> None:
        pass

    def room(self, start: int, size: int) -> memoryview:
        begin = start * self._size
        return self._made.reshape(-1).view(np.uint8).data[begin : begin + size]

    def write(self, start: int, data: memoryview) -> None:
        """What there was room for is where it belongs."""

    def finish(self) -> None:
        columns, rows = self._made.shape
        step = max(1, _PIECE // (columns * self._size))
        for row in range(0, rows, step):
            piece = np.ascontiguousarray(self._made[:, row : row + step].T)
            self._writer.write(row * columns, piece.view(np.uint8).reshape(-1).data)
