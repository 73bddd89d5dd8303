"""Values as keys, counted and kept by brackets; and the squares of what is selected by them."""

from __future__ import annotations

from typing import Any

import numpy as np

from mergebuild.kernels.numba.brackets import bracket
from mergebuild.kernels.numba.jit import jit
from mergebuild.kernels.numba.numbers import TILE, load, load_vector
from mergebuild.kernels.numba.sums import fold
from mergebuild.kernels.numba.values import derive, order, spread


@jit
def value_keys(
    kind: int,
    raw: Any,
    codes: Any,
    numbers: Any,
    place: int,
    count: int,
    floats: Any,
    doubles: Any,
    values: Any,
    into: Any,
) -> None:
    """The keys of values, uint32. Scratch: as `derive`; float32 (TILE)."""
    for start in range(0, count, TILE):
        part = min(TILE, count - start)
        derive(kind, raw, codes, numbers, place, start, part, floats, doubles, values)
        order(values, part, into[start : start + part])


@jit
def bracket_values(
    kind: int,
    raw: Any,
    codes: Any,
    numbers: Any,
    place: int,
    count: int,
    floats: Any,
    doubles: Any,
    values: Any,
    bounds: Any,
    rooms: Any,
    keys: Any,
    flags: Any,
    counts: Any,
    between: Any,
) -> None:
    """`bracket` of values. Scratch: as `derive`; float32 (TILE), uint32 (TILE); as `bracket`."""
    for start in range(0, count, TILE):
        part = min(TILE, count - start)
        derive(kind, raw, codes, numbers, place, start, part, floats, doubles, values)
        order(values, part, keys)
        for b in range(len(rooms)):
            bracket(keys, part, bounds[b], flags, counts[b], rooms[b], between[b])


@jit
def selected_squares(
    raw: Any,
    codes: Any,
    least: Any,
    start: int,
    count: int,
    floats: Any,
    doubles: Any,
    squares: Any,
    sums: Any,
) -> None:
    """`SelectedSquares` of one block into `sums`, float64 (deltas).

    Scratch: float32 (2 + deltas, TILE), float64 (2, TILE), float64 (deltas, BLOCK).
    """
    base, selected, deltas = floats[0], floats[1], floats[2:]
    for done in range(0, count, TILE):
        part = min(TILE, count - done)
        load(raw[0], codes[0], start + done, part, base)
        for i in range(len(deltas)):
            load_vector(raw, codes, i, True, start + done, part, base, deltas[i])
        spread(deltas, part, doubles, selected)
        for j in range(part):
            selected[j] = np.float32(1.0) if selected[j] >= least else np.float32(0.0)
        for i in range(len(deltas)):
            delta, into = deltas[i], squares[i, done : done + part]
            for j in range(part):
                wide = np.float64(delta[j] * selected[j])
                into[j] = wide * wide
    for i in range(len(deltas)):
        fold(squares[i], count, 1)
        sums[i] = squares[i, 0]
