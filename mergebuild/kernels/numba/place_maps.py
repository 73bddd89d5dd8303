"""The maps of `places` that have loops here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mergebuild.kernels.numba.balance_maps import balanced
from mergebuild.kernels.numba.numbers import TILE, rounded
from mergebuild.kernels.numba.place_loops import (
    average,
    consensus,
    important,
    overlap,
    toward,
    votes,
)
from mergebuild.kernels.numba.sources import sources
from mergebuild.kernels.operations import Map
from mergebuild.kernels.places import (
    Average,
    Balanced,
    Consensus,
    Important,
    Overlap,
    Toward,
    Votes,
)

if TYPE_CHECKING:
    from mergebuild.kernels.numba.bench import NumbaBench


def write_place(operation: Map, bench: NumbaBench) -> int | None:
    """Fill the bench's output and count overflows; None if there is no loop for this map."""
    raw, codes, count = bench.raw, bench.codes, bench.count
    match operation:
        case Average(weights, divisor):
            by, floats = rounded(divisor), bench.floats(2)
            return average(
                raw, codes, rounded(weights), by[()], count, floats, bench.out, bench.code
            )
        case Toward(step, floor):
            by, least = rounded(step), rounded(floor)
            floats = bench.floats(2)
            return toward(raw, codes, by[()], least[()], count, floats, bench.out, bench.code)
        case Overlap(threshold, factors):
            beyond, floats = rounded(threshold), bench.floats(5)
            return overlap(
                raw, codes, beyond[()], rounded(factors), count, floats, bench.out, bench.code
            )
        case Votes(weights, floor, least):
            selects = least is not None
            bound = np.float32(0.0) if least is None else rounded(least)[()]
            floats = bench.floats(4 + len(weights))
            low = rounded(floor)[()]
            return votes(
                raw,
                codes,
                rounded(weights),
                low,
                selects,
                bound,
                count,
                floats,
                bench.scratch("wide", np.float64, 2, TILE),
                bench.out,
                bench.code,
            )
        case Important(value, threshold):
            (source,), bound = sources((value,), bench), rounded(threshold)
            return important(
                raw,
                codes,
                source.numbers,
                source.place,
                bound[()],
                count,
                bench.floats(3),
                bench.out,
                bench.code,
            )
        case Consensus(bounds, enough, scale):
            by, floats = rounded(scale), bench.floats(3 + len(bounds))
            return consensus(
                raw, codes, rounded(bounds), enough, by[()], count, floats, bench.out, bench.code
            )
        case Balanced(values, bounds, scale):
            return balanced(
                raw,
                codes,
                np.array([value.delta for value in values], np.int64),
                rounded([(value.low, value.high) for value in values]),
                rounded(bounds),
                np.float64(scale),
                count,
                bench.floats(2 * len(codes)),
                bench.scratch("flat", np.float32, 7 * TILE),
                bench.scratch("wider", np.float64, 4, TILE),
                bench.scratch("places", np.uint32, 2, TILE),
                bench.scratch("flags", np.uint8, TILE),
                bench.scratch("shorts", np.uint16, TILE),
                bench.out,
                bench.code,
            )
    return None
