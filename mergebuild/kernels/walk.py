"""Passes over one tensor: in one run or, where others help, a large one in parts at a time.

What happens to a chunk is the kernels' affair. Scratch is O(chunk) a thread; a tensor that fits
into one chunk is read once. A look at a sample is no pass: values that are not finite are counted
in the first one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock, get_ident
from typing import Any, Final, Protocol, TypeAlias

from mergebuild.kernels.brackets import Sample
from mergebuild.kernels.interface import SIZES, Bench, Gathering, Kernels, Mergeable
from mergebuild.kernels.operations import BLOCK, Map, Shape, Statistic
from mergebuild.kernels.sample import pieces

PART: Final = 128 * BLOCK
"""Elements, about, that one thread works on when others may help: half a second at the most."""

Work: TypeAlias = Callable[[], None]
Share: TypeAlias = Callable[[Sequence[Work]], None]
"""Has all of some work done, by whatever threads; raises what fails."""


class Reader(Protocol):
    """One operand."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self, start: int, stop: int, into: memoryview) -> None:
        """Put elements [start, stop), row-major, raw, into a buffer of just that size."""


class Writer(Protocol):
    """Where the output goes."""

    @property
    def unit(self) -> int:
        """Parts begin at multiples of so many elements."""

    def part(self, start: int) -> Writer:
        """A writer for any thread, of what begins at element `start`; to be flushed."""

    def flush(self) -> None:
        """Nothing more will come."""

    def room(self, start: int, size: int) -> memoryview:
        """Where to put the next `size` bytes, from element `start` on, to be passed to `write`."""

    def write(self, start: int, data: memoryview) -> None:
        """Take raw bytes of the output from element `start` on; `data` is not touched after."""


@dataclass(frozen=True, slots=True)
class Help:
    """Other threads that may work on the same tensor: `readers` are the operands for one more."""

    share: Share
    readers: Callable[[], Sequence[Reader]]


class Walk:
    """Every pass over one tensor; its results do not depend on who helps."""

    def __init__(
        self,
        readers: Sequence[Reader],
        dtype: str,
        *,
        chunk: int,
        kernels: Kernels,
        help: Help | None,
    ) -> None:
        self._shape: Shape = tuple(readers[0].shape)
        self._elements = math.prod(self._shape)
        self._operands = [reader.dtype for reader in readers]
        self._dtype = dtype
        self._chunk = chunk
        self._kernels = kernels
        self._help = help
        self._lock = Lock()
        self._inspected = self._resident = False
        self._own = self._new_station(readers)
        self._stations = {get_ident(): self._own}
        self._held: Sequence[memoryview] = ()

    @property
    def nonfinite(self) -> tuple[int, ...]:
        """How many values of each operand are NaN or infinite."""
        counts = [station.bench.nonfinite() for station in self._stations.values()]
        return tuple(map(sum, zip(*counts, strict=True)))

    def gather(self, statistic: Statistic) -> Any:
        """One pass for a statistic; its value."""
        if isinstance(statistic, Sample):
            return self._sampled(statistic.of)
        grain = statistic.grain(self._shape)
        gathering = self._own.bench.begin(statistic)
        parts = self._parts(grain, 1)
        if len(parts) == 1 or not isinstance(gathering, Mergeable):
            for _ in self._chunks(self._own, 0, self._elements, grain):
                gathering.add()
        else:
            whole = _InOrder(gathering)

            def work(number: int, start: int, stop: int) -> None:
                station = self._station()
                part = station.bench.begin(statistic)
                for _ in self._chunks(station, start, stop, grain):
                    part.add()
                whole.take(number, part)

            self._share([partial(work, number, *part) for number, part in enumerate(parts)])
        self._inspected = True
        return gathering.value()

    def _sampled(self, statistic: Statistic) -> Any:
        """The same from pieces, put side by side on a bench of their own; what fits a chunk is read
        as a whole before, and stays."""
        if self._elements <= self._chunk:
            for _ in self._chunks(self._own, 0, self._elements, BLOCK):
                self._inspected = True
        places = pieces(self._elements)
        count = sum(stop - start for start, stop in places)
        station = self._new_station(self._own.readers)
        station.bench.reserve(count)
        for index, (reader, size) in enumerate(zip(station.readers, station.sizes, strict=True)):
            at = 0
            for start, stop in places:
                into = station.bench.inputs[index][at : at + (stop - start) * size]
                if self._resident:
                    into[:] = self._held[index][start * size : stop * size]
                else:
                    reader.read(start, stop, into)
                at += len(into)
        station.bench.place(0, count)
        gathering = station.bench.begin(statistic)
        gathering.add()
        return gathering.value()

    def map(self, operation: Map, writer: Writer) -> int:
        """The last pass, which writes; how many values became infinite by the last rounding."""
        grain = operation.grain(self._shape)
        parts = self._parts(grain, writer.unit)

        def work(start: int, stop: int) -> None:
            if len(parts) == 1:
                self._map(operation, self._own, start, stop, grain, writer)
                return
            part = writer.part(start)
            self._map(operation, self._station(), start, stop, grain, part)
            part.flush()

        self._share([partial(work, *part) for part in parts])
        self._inspected = True
        return sum(station.bench.overflowed() for station in self._stations.values())

    def _map(
        self, operation: Map, station: _Station, first: int, last: int, grain: int, out: Writer
    ) -> None:
        bench, size = station.bench, SIZES[self._dtype]
        waiting: deque[tuple[int, int]] = deque()

        def take() -> None:
            start, stop = waiting.popleft()
            room = out.room(start, (stop - start) * size)
            bench.take(room)
            out.write(start, room)

        for chunk in self._chunks(station, first, last, grain):
            bench.apply(operation)
            waiting.append(chunk)
            if len(waiting) > bench.lag:
                take()
        while waiting:
            take()

    def _chunks(
        self, station: _Station, first: int, last: int, grain: int
    ) -> Iterator[tuple[int, int]]:
        """Put one chunk after the other on a bench and tell which elements it holds."""
        if self._resident:
            yield 0, self._elements
            return
        whole = self._elements <= self._chunk
        step = self._elements if whole else max(1, self._chunk // grain) * grain
        station.bench.reserve(min(step, last - first))
        for start in range(first, last, step):
            stop = min(start + step, last)
            held = station.put(start, stop)
            if whole:
                self._held = held
            if not self._inspected:
                station.bench.inspect()
            yield start, stop
        self._resident = whole

    def _parts(self, grain: int, unit: int) -> list[tuple[int, int]]:
        """The runs of elements that may be worked on at the same time."""
        unit = math.lcm(grain, unit)
        length = -(-PART // unit) * unit
        if self._help is None or self._elements < 2 * length or self._elements <= self._chunk:
            return [(0, self._elements)]
        starts = range(0, self._elements, length)
        return [(start, min(start + length, self._elements)) for start in starts]

    def _share(self, work: Sequence[Work]) -> None:
        if self._help is None or len(work) == 1:
            for one in work:
                one()
        else:
            self._help.share(work)

    def _station(self) -> _Station:
        """That of this thread."""
        found = self._stations.get(get_ident())
        if found is None:
            assert self._help is not None
            found = self._new_station(self._help.readers())
            with self._lock:
                self._stations[get_ident()] = found
        return found

    def _new_station(self, readers: Sequence[Reader]) -> _Station:
        bench = self._kernels.bench(self._shape, self._operands, self._dtype)
        return _Station(bench, readers, [SIZES[dtype] for dtype in self._operands])


@dataclass(frozen=True, slots=True)
class _Station:
    """Where one thread works: a bench, and readers of the operands with the sizes of elements."""

    bench: Bench
    readers: Sequence[Reader]
    sizes: Sequence[int]

    def put(self, start: int, stop: int) -> Sequence[memoryview]:
        """Read elements onto the bench; their bytes."""
        sized = zip(self.sizes, self.bench.inputs, strict=True)
        buffers = [buffer[: (stop - start) * size] for size, buffer in sized]
        for reader, buffer in zip(self.readers, buffers, strict=True):
            reader.read(start, stop, buffer)
        self.bench.place(start, stop - start)
        return buffers


class _InOrder:
    """Merges what was gathered in parts, in their order, each as soon as it can be."""

    def __init__(self, whole: Mergeable) -> None:
        self._whole = whole
        self._lock = Lock()
        self._next = 0
        self._early: dict[int, Gathering] = {}

    def take(self, number: int, part: Gathering) -> None:
        with self._lock:
            self._early[number] = part
            while self._next in self._early:
                self._whole.merge(self._early.pop(self._next))
                self._next += 1
