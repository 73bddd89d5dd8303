"""Drives one method over one tensor: passes for statistics, then the map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from mergebuild.kernels.interface import Kernels
from mergebuild.kernels.operations import BLOCK, Report, Steps, Turn
from mergebuild.kernels.walk import Help, Reader, Walk, Writer

if TYPE_CHECKING:
    from mergebuild.kernels.turned import TurnedWriter

CHUNK: Final = 2 * BLOCK


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was noticed on the way.

    `nonfinite` counts NaN and infinite values per operand, `overflowed` the finite results that
    became infinite by the rounding to the output dtype; `reports` are the method's own.
    """

    nonfinite: tuple[int, ...]
    overflowed: int
    reports: tuple[str, ...] = ()


def evaluate(
    steps: Steps,
    readers: Sequence[Reader],
    writer: Writer,
    dtype: str,
    *,
    chunk: int = CHUNK,
    kernels: Kernels,
    help: Help | None = None,
) -> Outcome:
    """Run a method over operands of one shape and write the result in `dtype`.

    `chunk` is in elements, a multiple of `BLOCK`; the result depends neither on it nor on `help`.
    Writes come in ascending order and without gaps, in each part; an empty tensor gets none.
    """
    if chunk <= 0 or chunk % BLOCK:
        raise ValueError(f"chunk is {chunk}, not a positive multiple of {BLOCK}")
    shape = tuple(readers[0].shape)
    if any(tuple(reader.shape) != shape for reader in readers):
        raise ValueError(f"shapes differ: {[tuple(reader.shape) for reader in readers]}")
    if 0 in shape:
        steps.close()
        return Outcome((0,) * len(readers), 0)
    begin = partial(Walk, dtype=dtype, chunk=chunk, kernels=kernels)
    walk: Walk | None = None
    across: TurnedWriter | None = None
    value: Any = None
    reports: list[str] = []
    while True:
        try:
            request = steps.send(value)
        except StopIteration as stop:
            walk = walk or begin(readers, help=help)
            overflowed = walk.map(stop.value, across or writer)
            if across is not None:
                across.finish()
            return Outcome(walk.nonfinite, overflowed, tuple(reports))
        value = None
        if isinstance(request, Report):
            reports.append(request.text)
        elif isinstance(request, Turn):
            from mergebuild.kernels.turned import TurnedWriter, turned, turned_help

            help = turned_help(help) if help is not None else None
            readers, walk = turned(readers), None
            across = TurnedWriter(writer, shape[::-1], dtype)
        else:
            walk = walk or begin(readers, help=help)
            value = walk.gather(request)
