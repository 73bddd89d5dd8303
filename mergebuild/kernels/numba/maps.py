"""The maps of `operations` that have loops here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mergebuild.kernels.numba.loops import (
    BY_NUMBER,
    UNDIVIDED,
    combine_columns,
    combine_rows,
    sum_task_vectors,
)
from mergebuild.kernels.numba.masking import arrays, given, known
from mergebuild.kernels.numba.numbers import TILE, rounded
from mergebuild.kernels.numba.place_maps import write_place
from mergebuild.kernels.numba.statistics import square, vector_count
from mergebuild.kernels.numba.sums import gram_rows
from mergebuild.kernels.numba.weighing import BY_ELECTED
from mergebuild.kernels.operations import (
    ColumnCombination,
    Combination,
    Identity,
    Map,
    RowCombination,
    TaskVectors,
    column_count,
    row_length,
)

if TYPE_CHECKING:
    from mergebuild.kernels.numba.bench import NumbaBench


def write(operation: Map, bench: NumbaBench) -> int | None:
    """Fill the bench's output and count overflows; None if there is no loop for this map."""
    kind = type(operation)
    if kind is Identity:
        assert isinstance(operation, Identity)
        one = slice(operation.operand, operation.operand + 1)
        ones = np.ones((1, 1), np.float32)
        return _by_rows(bench, bench.raw[one], bench.codes[one], False, ones, bench.count)
    if kind is Combination:
        assert isinstance(operation, Combination)
        coefficients = rounded([operation.coefficients])
        deltas = operation.of == "deltas"
        return _by_rows(bench, bench.raw, bench.codes, deltas, coefficients, bench.count)
    if kind is ColumnCombination:
        assert isinstance(operation, ColumnCombination)
        return _by_columns(operation, bench)
    if kind is RowCombination:
        assert isinstance(operation, RowCombination)
        return _solved_by_rows(operation, bench)
    if kind is TaskVectors:
        assert isinstance(operation, TaskVectors)
        if operation.deltas and known([delta.mask for delta in operation.deltas]):
            return _task_vectors(operation, bench)
    return write_place(operation, bench)


def _by_rows(
    bench: NumbaBench,
    raw: NDArray[np.uint8],
    codes: NDArray[np.int64],
    deltas: bool,
    coefficients: NDArray[np.float32],
    length: int,
) -> int:
    return combine_rows(
        raw,
        codes,
        deltas,
        coefficients,
        length,
        bench.count,
        bench.floats(3),
        bench.out,
        bench.code,
    )


def _by_columns(operation: ColumnCombination, bench: NumbaBench) -> int:
    # Short rows are joined, so that loops are long.
    rows = -(-TILE // column_count(bench.shape))
    coefficients = np.tile(rounded(operation.coefficients).T, (1, rows))
    return combine_columns(
        bench.raw,
        bench.codes,
        operation.of == "deltas",
        np.ascontiguousarray(coefficients),
        bench.count,
        bench.floats(3),
        bench.out,
        bench.code,
    )


def _solved_by_rows(operation: RowCombination, bench: NumbaBench) -> int:
    length = row_length(bench.shape)
    rows, deltas = bench.count // length, operation.of == "deltas"
    vectors = vector_count(operation.of, bench)
    sums = np.empty((rows, vectors * (vectors + 1) // 2, 1))
    doubles = bench.scratch("rows", np.float64, vectors, length)
    scratch = bench.scratch("row", np.float64, length)
    gram_rows(bench.raw, bench.codes, deltas, rows, length, bench.floats(2), doubles, scratch, sums)
    coefficients: Any = operation.solve(square(sums[..., 0], vectors))
    return _by_rows(bench, bench.raw, bench.codes, deltas, rounded(coefficients), length)


def _task_vectors(operation: TaskVectors, bench: NumbaBench) -> int:
    kept = [delta.mask for delta in operation.deltas]
    masks = arrays(kept)
    division, divisor = UNDIVIDED, 1.0
    if operation.divisor == "elected":
        division = BY_ELECTED if operation.elect else UNDIVIDED
    elif operation.divisor != 1.0:
        division, divisor = BY_NUMBER, operation.divisor
    divisor, scale = rounded([divisor, operation.scale])
    return sum_task_vectors(
        bench.raw,
        bench.codes,
        masks.kinds,
        masks.bounds,
        masks.streams,
        masks.limits,
        given(kept, range(len(kept)), bench, again=False),
        rounded([delta.factor for delta in operation.deltas]),
        rounded([delta.weight for delta in operation.deltas]),
        operation.elect,
        division,
        divisor,
        scale,
        bench.start,
        bench.count,
        bench.floats(5 + len(operation.deltas)),
        bench.out,
        bench.code,
    )
