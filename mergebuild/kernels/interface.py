"""What an implementation of the operations has to offer; `evaluate` speaks to nothing else.

An implementation is a `Kernels`; it hands out one `Bench` per tensor, which owns the buffers.
Knows no torch and no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol, runtime_checkable

from mergebuild.kernels.operations import Map, Shape, Statistic

SIZES: Final = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
"""Bytes of an element, of the dtypes that operands and results may have."""


class Gathering(Protocol):
    """A statistic under way."""

    def add(self) -> None:
        """Take in the elements now on the bench; they follow those of the call before."""

    def value(self) -> Any:
        """What the statistic's description says, over all elements added."""


@runtime_checkable
class Mergeable(Gathering, Protocol):
    """A statistic that can be gathered in parts."""

    def merge(self, after: Any) -> None:
        """Take in what another gathering of the same statistic has; it follows what is there."""


class Bench(Protocol):
    """Room for a run of consecutive elements of every operand of one tensor, and for the output."""

    @property
    def inputs(self) -> Sequence[memoryview]:
        """Raw bytes of each operand, to be written by the caller, then announced by `place`, after
        which they are others if the bench works on the former ones meanwhile."""

    @property
    def lag(self) -> int:
        """How many outputs may be under way before the first of them has to be taken."""

    def reserve(self, elements: int) -> None:
        """Make room for at least so many elements; what is on the bench may be lost."""

    def place(self, start: int, count: int) -> None:
        """Say that the inputs now hold the elements [start, start + count) of the tensor."""

    def inspect(self) -> None:
        """Count the values on the bench that are NaN or infinite, as float32."""

    def nonfinite(self) -> tuple[int, ...]:
        """How many there were of each operand in all that was inspected."""

    def begin(self, statistic: Statistic) -> Gathering:
        """Start gathering over the whole tensor."""

    def apply(self, operation: Map) -> None:
        """Begin to make the output. What is on the bench stays in use until it is taken or, where
        it may lag, under way."""

    def take(self, into: memoryview) -> None:
        """Put the first output not taken yet, raw bytes in its dtype, into a buffer of its size."""

    def overflowed(self) -> int:
        """How many finite results the rounding made infinite, in all outputs."""


class Kernels(Protocol):
    """An implementation. Used by many threads at once; benches are used by one."""

    def bench(self, shape: Shape, operands: Sequence[str], output: str) -> Bench:
        """A bench without room yet. Dtypes: bfloat16, float16, float32, float64."""
