"""What an implementation of the operations has to offer; `evaluate` speaks to nothing else.

An implementation is a `Kernels`; it hands out one `Bench` per tensor, which owns the buffers.
Knows no torch and no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from mergebuild.kernels.operations import Map, Shape, Statistic


class Gathering(Protocol):
    """A statistic under way."""

    def add(self) -> None:
        """Take in the elements now on the bench; they follow those of the call before."""

    def value(self) -> Any:
        """What the statistic's description says, over all elements added."""


class Bench(Protocol):
    """Room for a run of consecutive elements of every operand of one tensor, and for the output."""

    @property
    def inputs(self) -> Sequence[memoryview]:
        """Raw bytes of each operand, to be written by the caller, then announced by `place`."""

    @property
    def output(self) -> memoryview:
        """Raw bytes of the output, in its dtype, after `apply`."""

    def reserve(self, elements: int) -> None:
        """Make room for at least so many elements; what is on the bench may be lost."""

    def place(self, start: int, count: int) -> None:
        """Say that the inputs now hold the elements [start, start + count) of the tensor."""

    def nonfinite(self) -> tuple[int, ...]:
        """How many values of each operand are NaN or infinite, as float32."""

    def begin(self, statistic: Statistic) -> Gathering:
        """Start gathering over the whole tensor."""

    def apply(self, operation: Map) -> int:
        """Fill the output; count the finite results that the rounding made infinite.

        It is the last use of what is on the bench.
        """


class Kernels(Protocol):
    """An implementation. Used by many threads at once; benches are used by one."""

    def bench(self, shape: Shape, operands: Sequence[str], output: str) -> Bench:
        """A bench without room yet. Dtypes: bfloat16, float16, float32, float64."""
