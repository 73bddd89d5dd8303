"""Tensors whose shapes differ between the inputs of a node, as a table.

Tensors of the same kind in different layers are one row. Pure: names and shapes in, text out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""A tensor's shape in each input that has it, by what the input is called."""

_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.)")
_MOST: Final = 20


def sizes_table(tensors: Mapping[str, Shapes]) -> str:
    """Lines, the first of them a heading: a kind of tensor, and its shape in each input."""
    inputs = list(dict.fromkeys(name for shapes in tensors.values() for name in shapes))
    rows: dict[tuple[str, ...], int] = {}
    for tensor, shapes in tensors.items():
        kind = _NUMBER.sub("*", tensor)
        cells = (shape_text(shapes[name]) if name in shapes else "none" for name in inputs)
        row = kind, *cells
        rows[row] = rows.get(row, 0) + 1
    listed = [(f"{kind} ({n} tensors)" if n > 1 else kind, *r) for (kind, *r), n in rows.items()]
    lines = _aligned([("", *inputs), *listed[:_MOST]])
    more = len(listed) - _MOST
    return "\n".join([*lines, *([f"  and {more} more kinds"] if more > 0 else [])])


def shape_text(shape: Iterable[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"  {'  '.join(cells)}".rstrip()
