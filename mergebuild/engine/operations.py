"""Making the tensors of nodes that are no merge.

Reads operands whole where an operation needs them so: memory is that of one tensor a thread. Knows
expressions, readers and writers; no plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import prod
from threading import Lock
from typing import TYPE_CHECKING, Final

from mergebuild.engine.blocks import Operand
from mergebuild.engine.derived import DerivedReader
from mergebuild.expression import Expression
from mergebuild.kernels import Outcome
from mergebuild.kernels.random import gates, stream
from mergebuild.kernels.walk import Writer
from mergebuild.operations import APPLY, EXTRACT, GATES

if TYPE_CHECKING:
    from mergebuild.kernels.torch.extraction import Factors

_BLOCK: Final = 1 << 18


class Operations:
    """For any thread; to be closed. Keeps torch to one thread meanwhile: bits must not depend on
    how many there are."""

    def __init__(self, threads: int) -> None:
        self._lock = Lock()
        self._pairs: dict[tuple[object, ...], _Pair] = {}
        self._most = max(8, 2 * threads)
        self._kept: ExitStack | None = None

    def compute(
        self, expression: Expression, readers: Sequence[Operand], writer: Writer
    ) -> Outcome:
        """Write the tensor that an expression of `operations` says.

        Raises CheckpointError if an operand cannot be read.
        """
        if 0 in expression.shape:
            return Outcome((0,) * len(readers), 0)
        match expression.method:
            case EXTRACT.name:
                return self._extract(expression, readers, writer)
            case APPLY.name:
                return self._apply(expression, readers, writer)
            case GATES.name:
                return _gates(expression, readers, writer)
        raise ValueError(f"no operation '{expression.method}'")

    def close(self) -> None:
        with self._lock:
            self._pairs.clear()
            if self._kept is not None:
                self._kept.close()
                self._kept = None

    def _extract(
        self, expression: Expression, readers: Sequence[Operand], writer: Writer
    ) -> Outcome:
        from mergebuild.kernels.torch.extraction import factors

        said = expression.arguments
        rank, scale = said["rank"], said["scale"]
        assert isinstance(rank, int)
        assert isinstance(scale, float)
        base, model = readers
        shape = base.shape[0], prod(base.shape[1:])

        def make() -> Factors:
            self._one_thread()
            return factors(
                (_whole(base), base.dtype),
                (_whole(model), model.dtype),
                shape,
                rank=rank,
                scale=scale,
                transposed=bool(said["transposed"]),
                dtype=expression.dtype,
            )

        keys = tuple(operand.key for operand in expression.operands)
        place = (*keys, rank, scale, said["transposed"], expression.dtype)
        both = self._pair(place, make)
        first = said["part"] == "a"
        writer.write(0, memoryview(both.a if first else both.b))
        return Outcome(both.nonfinite, both.overflowed[0 if first else 1])

    def _pair(self, place: tuple[object, ...], make: Callable[[], Factors]) -> Factors:
        """Both factors come of one decomposition: the second to ask gets what the first made."""
        with self._lock:
            entry = self._pairs.setdefault(place, _Pair())
            while len(self._pairs) > self._most:
                del self._pairs[next(iter(self._pairs))]
        with entry.lock:
            if entry.made is None:
                entry.made = make()
            return entry.made

    def _apply(self, expression: Expression, readers: Sequence[Operand], writer: Writer) -> Outcome:
        from mergebuild.kernels.torch.lowrank import LowRankSum, rows_of_block

        self._one_thread()
        weight, a, b = readers
        across, scale = bool(expression.arguments["transposed"]), expression.arguments["scale"]
        assert isinstance(scale, float)
        left, right = ((_whole(x), x.dtype, _flat(x)) for x in ((a, b) if across else (b, a)))
        sums = LowRankSum(left, right, scale, transposed=across)
        columns = prod(weight.shape[1:])
        made = DerivedReader(weight, sums.add, columns, rows_of_block(columns))
        count = prod(made.shape)
        buffer = memoryview(bytearray(4 * min(count, _BLOCK)))
        for start in range(0, count, _BLOCK):
            stop = min(start + _BLOCK, count)
            part = buffer[: 4 * (stop - start)]
            made.read(start, stop, part)
            writer.write(start, part)
        return Outcome((0,) * len(readers), 0)

    def _one_thread(self) -> None:
        from mergebuild.kernels.torch import single_threaded

        with self._lock:
            if self._kept is None:
                self._kept = ExitStack()
                self._kept.enter_context(single_threaded())


class _Pair:
    """Factors that are being made, or are made."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.made: Factors | None = None


def _gates(expression: Expression, readers: Sequence[Operand], writer: Writer) -> Outcome:
    from mergebuild.kernels.torch.gates import router

    said = expression.arguments
    experts, rows = said["expert"], said["row"]
    assert isinstance(experts, tuple)
    assert isinstance(rows, tuple)
    given: dict[int, tuple[bytearray, str]] = {}
    width = expression.shape[1]
    for reader, expert, row in zip(readers, experts, rows, strict=True):
        assert isinstance(expert, int)
        assert isinstance(row, int)
        given[expert] = _part(reader, row * width, (row + 1) * width), reader.dtype
    drawn = None
    if expression.stream is not None:
        seed, deviation = said["seed"], said["deviation"]
        assert isinstance(seed, int)
        assert isinstance(deviation, float)
        drawn = gates(stream(seed, "", expression.stream), deviation)
    made = router(given, (expression.shape[0], width), drawn, expression.dtype)
    writer.write(0, memoryview(made.raw))
    return Outcome(tuple(made.nonfinite[expert] for expert in given), made.overflowed)


def _flat(reader: Operand) -> tuple[int, int]:
    return reader.shape[0], prod(reader.shape[1:])


def _whole(reader: Operand) -> bytearray:
    return _part(reader, 0, prod(reader.shape))


def _part(reader: Operand, start: int, stop: int) -> bytearray:
    raw = bytearray((stop - start) * reader.itemsize)
    reader.read(start, stop, memoryview(raw))
    return raw
