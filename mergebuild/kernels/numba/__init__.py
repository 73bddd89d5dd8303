"""The operations as loops that numba compiles: bytes in, bytes out, a tile in cache between.

The same bits as torch, the reference, for all that has a loop here; the rest is handed to it.
Importing this package imports numba.

    jit                         how loops are compiled and where the code is kept
    functions                   exp, tanh and ln, one number at a time
    enclosures                  about what a balance is, and how far off at most
    numbers, masks, buckets, sorting, ranks, sums, magnitudes, counts, brackets, balances, values,
    divergences, value_counts, value_brackets, balance_brackets, place_counts
                                the loops of statistics, and
    loops, weighing, place_loops, balance_maps
                                those of maps
    masking, sources, statistics, order_statistics, place_statistics, maps, place_maps
                                operations as arguments of loops
    drawn                       masks that are kept from one pass for the next
    bench                       the buffers, and the way out to other kernels
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

from mergebuild.kernels.interface import Bench, Kernels
from mergebuild.kernels.numba.bench import NumbaBench
from mergebuild.kernels.operations import Shape


class NumbaKernels:
    """Hands out benches that compute with compiled loops on the CPU.

    `others` is called once, when the first operation without a loop comes.
    """

    def __init__(self, others: Callable[[], Kernels]) -> None:
        self._make_others = others
        self._others: Kernels | None = None
        self._lock = Lock()

    def bench(self, shape: Shape, operands: Sequence[str], output: str) -> NumbaBench:
        def other() -> Bench:
            with self._lock:
                if self._others is None:
                    self._others = self._make_others()
            return self._others.bench(shape, operands, output)

        return NumbaBench(shape, operands, output, other)


__all__ = ["NumbaBench", "NumbaKernels"]
