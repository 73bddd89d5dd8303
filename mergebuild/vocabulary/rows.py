"""A table of rows: where each row of a matrix in one vocabulary comes from in others.

Each row is a row of a part, zeros, or the mean of rows (a group). A value with a digest; knows no
tensors, no tokens and no files.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Final, NamedTuple, TypeAlias

from mergebuild.digest import fields_digest

ZERO: Final = -1
MEAN: Final = -2

Refs: TypeAlias = tuple[tuple[int, int], ...]
"""(part, row) of each row that one is made of."""
Rows: TypeAlias = "tuple[array[int], array[int]]"
"""The same, side by side."""


class Run(NamedTuple):
    """`length` rows from `at` on are those of `part` from `row` on; of ZERO they are zeros, and of
    MEAN there is one, the mean of the group `row`."""

    at: int
    part: int
    row: int
    length: int


@dataclass(frozen=True)
class RowTable:
    """`rows` says of each row its part (or ZERO, MEAN) and its row there (or its group). Parts are
    numbered without gaps."""

    rows: Rows
    groups: tuple[Rows, ...]

    def __len__(self) -> int:
        return len(self.rows[0])

    @cached_property
    def digest(self) -> str:
        fields = [("rows", _bytes(self.rows)), *(("group", _bytes(g)) for g in self.groups)]
        return fields_digest("row table", fields)

    @cached_property
    def reads(self) -> tuple[int, ...]:
        """How many rows are read of each part, each time counted."""
        counts: Counter[int] = Counter()
        for parts, _ in (self.rows, *self.groups):
            counts.update(parts)
        return tuple(counts[part] for part in range(max(counts, default=-1) + 1))

    def runs(self, first: int, last: int) -> Iterator[Run]:
        """Rows [first, last) in as few runs as there are."""
        yield from _runs(self.rows, first, last)

    def group(self, number: int) -> Iterator[Run]:
        """The rows that a group is the mean of."""
        yield from _runs(self.groups[number], 0, len(self.groups[number][0]))


def make_table(rows: Sequence[Refs]) -> tuple[RowTable, tuple[int, ...]]:
    """A table from what each row is made of: nothing (zeros), one row, or several of which it is
    the mean; and for each of the table's parts, which one it was."""
    used = sorted({part for refs in {id(refs): refs for refs in rows}.values() for part, _ in refs})
    renumbered = {part: number for number, part in enumerate(used)}
    groups: dict[int, int] = {}
    parts, numbers = array("i"), array("i")
    members: list[Rows] = []
    for refs in rows:
        if len(refs) == 1:
            (part, number) = refs[0]
            parts.append(renumbered[part])
            numbers.append(number)
        elif refs:
            if id(refs) not in groups:
                groups[id(refs)] = len(groups)
                members.append(
                    (array("i", [renumbered[p] for p, _ in refs]), array("i", [r for _, r in refs]))
                )
            parts.append(MEAN)
            numbers.append(groups[id(refs)])
        else:
            parts.append(ZERO)
            numbers.append(0)
    return RowTable((parts, numbers), tuple(members)), tuple(used)


def _bytes(rows: Rows) -> bytes:
    """Little-endian on every machine."""
    found = []
    for numbers in rows:
        if sys.byteorder == "big":
            numbers = array("i", numbers)
            numbers.byteswap()
        found.append(numbers.tobytes())
    return b"".join(found)


def _runs(rows: Rows, first: int, last: int) -> Iterator[Run]:
    parts, numbers = rows

    def line(at: int) -> tuple[int, int]:
        """Equal for rows that follow each other."""
        part = parts[at]
        return part, at if part == MEAN else 0 if part == ZERO else numbers[at] - at

    at = first
    for (part, _), run in groupby(range(first, last), line):
        length = sum(1 for _ in run)
        yield Run(at, part, numbers[at], length)
        at += length
