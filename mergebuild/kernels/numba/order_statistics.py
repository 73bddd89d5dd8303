"""The statistics of `brackets`, gathered from what is put on the bench."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from mergebuild.kernels.brackets import (
    Bracket,
    Bracketed,
    MagnitudeBrackets,
    MagnitudeKeys,
    ValueBrackets,
    ValueKeys,
)
from mergebuild.kernels.interface import Gathering
from mergebuild.kernels.numba.balance_brackets import bracket_balances
from mergebuild.kernels.numba.brackets import bracket_magnitudes, magnitudes
from mergebuild.kernels.numba.numbers import TILE, rounded
from mergebuild.kernels.numba.sources import leading, sources
from mergebuild.kernels.numba.value_brackets import bracket_values, value_keys
from mergebuild.kernels.operations import Statistic
from mergebuild.kernels.places import Balance
from mergebuild.kernels.selection import Keys

if TYPE_CHECKING:
    from mergebuild.kernels.numba.bench import NumbaBench

SIGN: Final = np.uint32(2**31)


def gather_keys(statistic: Statistic, bench: NumbaBench) -> Gathering | None:
    """Start gathering a statistic; None if there is no loop for it."""
    match statistic:
        case MagnitudeKeys():
            return GatherMagnitudeKeys(statistic, bench)
        case MagnitudeBrackets():
            return GatherMagnitudeBrackets(statistic, bench)
        case ValueKeys():
            return GatherValueKeys(statistic, bench)
        case ValueBrackets(values, brackets):
            balances = [value for value in values if isinstance(value, Balance)]
            if len(balances) == len(values):
                return GatherBalanceBrackets(balances, brackets, bench)
            return GatherValueBrackets(statistic, bench)
    return None


class Brackets:
    """Some brackets as arrays that loops can read, and what was found with them."""

    def __init__(self, brackets: Sequence[Bracket]) -> None:
        self.bounds = np.array([(b.low, b.high) for b in brackets], np.uint32).reshape(-1, 2)
        self.rooms = np.array([b.room for b in brackets], np.int64)
        self.counts = np.zeros((len(brackets), 4), np.int64)
        room = max((b.room for b in brackets), default=0)
        self.between = np.empty((len(brackets), room + TILE), np.uint32)
        self._totals = np.zeros_like(self.counts)
        self._kept: list[list[Keys]] = [[] for _ in brackets]

    def merge(self, after: Brackets) -> None:
        """Take in what others found; it follows what is here."""
        self._finish()
        after._finish()
        self._put(after._totals, after._kept)

    def value(self) -> list[Bracketed]:
        self._finish()
        return [
            Bracketed(below, low, high, np.concatenate(runs) if kept <= room else None)
            for (below, low, high, kept), room, runs in zip(
                self._totals.tolist(), self.rooms.tolist(), self._kept, strict=True
            )
        ]

    def _finish(self) -> None:
        """Put away what was found, in as much memory as it needs."""
        kept = zip(self.between, self.counts[:, 3].tolist(), strict=True)
        self._put(self.counts, [[keys[:count].copy()] for keys, count in kept])
        self.counts[:] = 0

    def _put(self, counts: NDArray[np.int64], kept: Sequence[list[Keys]]) -> None:
        """Add to the totals, and the keys as long as there is room for all of a bracket."""
        self._totals += counts
        full = (self._totals[:, 3] > self.rooms).tolist()
        for runs, more, over in zip(self._kept, kept, full, strict=True):
            runs += more
            if over:
                runs.clear()


def joined(brackets: Sequence[Sequence[Bracket]]) -> Brackets:
    """Those of several vectors, one after the other."""
    return Brackets([one for some in brackets for one in some])


def apart(found: Sequence[Bracketed], ends: NDArray[np.int64]) -> list[list[Bracketed]]:
    """What was found for each of the vectors, whose brackets ended there."""
    starts = [0, *ends.tolist()]
    return [list(found[first:end]) for first, end in pairwise(starts)]


class GatherMagnitudeKeys:
    def __init__(self, statistic: MagnitudeKeys, bench: NumbaBench) -> None:
        self._deltas, self._bench = statistic.deltas, bench
        self._found: list[list[Keys]] = [[] for _ in statistic.deltas]

    def add(self) -> None:
        bench = self._bench
        for found, delta in zip(self._found, self._deltas, strict=True):
            keys = np.empty(bench.count, np.uint32)
            magnitudes(bench.raw, bench.codes, delta, bench.count, bench.floats(2), keys)
            found.append(keys)

    def value(self) -> list[Keys]:
        return [np.concatenate(found) for found in self._found]


class GatherMagnitudeBrackets:
    def __init__(self, statistic: MagnitudeBrackets, bench: NumbaBench) -> None:
        self._bench = bench
        self._deltas = np.array(statistic.deltas, np.int64)
        self._ends = np.cumsum([len(some) for some in statistic.brackets])
        self._found = joined(statistic.brackets)

    def add(self) -> None:
        bench, found = self._bench, self._found
        bracket_magnitudes(
            bench.raw,
            bench.codes,
            self._deltas,
            self._ends,
            found.bounds,
            found.rooms,
            bench.count,
            bench.floats(2),
            bench.scratch("flags", np.uint8, TILE),
            found.counts,
            found.between,
        )

    def merge(self, after: GatherMagnitudeBrackets) -> None:
        self._found.merge(after._found)

    def value(self) -> list[list[Bracketed]]:
        return apart(self._found.value(), self._ends)


class GatherValueKeys:
    def __init__(self, statistic: ValueKeys, bench: NumbaBench) -> None:
        self._values, self._bench = statistic.values, bench
        self._found: list[list[Keys]] = [[] for _ in statistic.values]

    def add(self) -> None:
        bench = self._bench
        for found, source in zip(self._found, sources(self._values, bench), strict=True):
            keys = np.empty(bench.count, np.uint32)
            value_keys(*leading(source, bench), keys)
            found.append(keys)

    def value(self) -> list[Keys]:
        return [np.concatenate(found) for found in self._found]


class GatherValueBrackets:
    def __init__(self, statistic: ValueBrackets, bench: NumbaBench) -> None:
        self._values, self._bench = statistic.values, bench
        self._found = [Brackets(some) for some in statistic.brackets]

    def add(self) -> None:
        bench = self._bench
        for found, source in zip(self._found, sources(self._values, bench), strict=True):
            bracket_values(
                *leading(source, bench),
                found.bounds,
                found.rooms,
                bench.scratch("keys", np.uint32, TILE),
                bench.scratch("flags", np.uint8, TILE),
                found.counts,
                found.between,
            )

    def merge(self, after: GatherValueBrackets) -> None:
        for found, more in zip(self._found, after._found, strict=True):
            found.merge(more)

    def value(self) -> list[list[Bracketed]]:
        return [found.value() for found in self._found]


class GatherBalanceBrackets:
    """Of the `Balance` of some deltas in one walk."""

    def __init__(
        self,
        values: Sequence[Balance],
        brackets: Sequence[Sequence[Bracket]],
        bench: NumbaBench,
    ) -> None:
        self._bench = bench
        self._which = np.array([value.delta for value in values], np.int64)
        self._extremes = rounded([(value.low, value.high) for value in values])
        self._ends = np.cumsum([len(some) for some in brackets])
        self._found = joined(brackets)
        bits = self._found.bounds
        self._limits = np.where(bits & SIGN, bits ^ SIGN, ~bits).view(np.float32)

    def add(self) -> None:
        bench, found = self._bench, self._found
        bracket_balances(
            bench.raw,
            bench.codes,
            self._which,
            self._extremes,
            self._ends,
            found.bounds,
            self._limits,
            found.rooms,
            bench.count,
            bench.floats(4 + 2 * len(bench.codes)),
            bench.scratch("wide", np.float64, 2, TILE),
            bench.scratch("words", np.uint32, 3, TILE),
            bench.scratch("flags", np.uint8, TILE),
            found.counts,
            found.between,
        )

    def merge(self, after: GatherBalanceBrackets) -> None:
        self._found.merge(after._found)

    def value(self) -> list[list[Bracketed]]:
        return apart(self._found.value(), self._ends)
