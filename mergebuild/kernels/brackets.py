"""Further operations, for order statistics in one pass over the data after a look at a sample.

Descriptions only, as in `operations`, whose words are used here. A key is the number that orders a
value: the bits of a magnitude, or those of a value with a sign as `places` has them. From keys of a
sample it is guessed between which two keys a rank lies; one pass then counts what lies below and
at either, and keeps what lies between. The rank is exact if the guess was right, and it shows if
it was not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mergebuild.kernels.operations import Shape, Statistic

if TYPE_CHECKING:
    from mergebuild.kernels.places import Balance, Spread


@dataclass(frozen=True, slots=True)
class Bracket:
    """low ≤ high, two keys, and how many of those between, ends excluded, there is room for."""

    low: int
    high: int
    room: int


@dataclass(frozen=True, slots=True, eq=False)
class Bracketed:
    """How many keys are below a bracket, at its low end and at its high end; if they are one it
    counts as low first; and the keys between, uint32, in the order of places, None if too many."""

    below: int
    low: int
    high: int
    between: Any


@dataclass(frozen=True, slots=True)
class Sample(Statistic):
    """Another statistic, of the elements of `sample.pieces` only.

    It must treat each element by itself, wherever in the tensor it stands.
    """

    of: Statistic

    def grain(self, shape: Shape) -> int:
        return self.of.grain(shape)


@dataclass(frozen=True, slots=True)
class MagnitudeKeys(Statistic):
    """Magnitudes of some deltas as keys, uint32 (elements,) each: of a sample."""

    deltas: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MagnitudeBrackets(Statistic):
    """Magnitudes of some deltas, counted and kept by the brackets of each.

    Value, one per position: as many `Bracketed` as there are brackets.
    """

    deltas: tuple[int, ...]
    brackets: tuple[tuple[Bracket, ...], ...]


@dataclass(frozen=True, slots=True)
class ValueKeys(Statistic):
    """Keys of values, uint32 (elements,) each: of a sample."""

    values: tuple[Spread | Balance, ...]


@dataclass(frozen=True, slots=True)
class ValueBrackets(Statistic):
    """Values, counted and kept by the brackets of each; the result is as that above."""

    values: tuple[Spread | Balance, ...]
    brackets: tuple[tuple[Bracket, ...], ...]
