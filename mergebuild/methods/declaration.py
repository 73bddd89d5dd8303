"""What a merge method says of itself: one declaration, from which everything else derives.

Validation, `mergebuild methods`, the documentation, keys and the model card's references read
these values; only the engine calls `Method.run`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal, TypeAlias

from mergebuild.kernels.operations import Steps

Argument: TypeAlias = bool | int | float | str | None
Arguments: TypeAlias = Mapping[str, Argument | tuple[Argument, ...]]
"""Resolved parameters of one tensor. Shared ones are scalars; input-scoped ones are tuples over all
inputs, delta-scoped ones over the inputs that are not the base; both in the operands' order."""


class Scope(Enum):
    """Whom a parameter speaks of."""

    SHARED = "shared"
    INPUT = "per input"
    DELTA = "per input but the base"


class Required(Enum):
    """Stands for the default of a parameter that has none."""

    REQUIRED = "required"


REQUIRED: Final = Required.REQUIRED


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter: `type` is the Python type of a value, `choices` strings that are allowed too.

    Bounds are inclusive unless `low_open` / `high_open`; floats are finite always.
    """

    name: str
    type: type[float] | type[int] | type[bool]
    scope: Scope
    default: Argument | Required
    doc: str
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False
    nullable: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Paper:
    """Where a method comes from."""

    title: str
    authors: str
    arxiv: str | None = None


@dataclass(frozen=True, slots=True)
class Operands:
    """What a method may know of a tensor before reading it.

    Operands stand in order: the base first if `base`, then the other inputs as listed.
    `streams` holds the two 32-bit words of the random stream of each input that is not the base,
    for random methods only.
    """

    count: int
    base: bool
    shape: tuple[int, ...]
    streams: tuple[tuple[int, int], ...] = ()

    @property
    def deltas(self) -> int:
        return self.count - self.base

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a method has to say about arguments before anything is read."""

    level: Literal["error", "warning"]
    message: str


def nothing_idle(operands: Operands, arguments: Arguments) -> frozenset[str]:
    return frozenset()


def nothing_held(operands: Operands) -> int:
    return 0


def no_findings(operands: Operands, arguments: Arguments) -> Iterator[Finding]:
    return iter(())


@dataclass(frozen=True, slots=True)
class Method:
    """A merge method.

    `inputs` bounds the number of inputs (most None: any), the base not counted unless it is
    ignored. `missing` is what happens to a tensor that only some inputs have: merge the `subset`
    present, copy it where a `single` input or only the base (`base-single`) has it, or
    `base-or-skip`. `inert` are names that are accepted and have no effect, none of them in
    `parameters`. `idle` names arguments that cannot change the result for these operands: all of
    them at their defaults give the same. So they stay out of the key; it includes `seed` where no
    mask is drawn. `whole` methods hold whole tensors in memory, and their last bits may depend on
    the device. `held` is about how many bytes a thread holds of such operands at the peak, besides
    chunks of them: the plan states it. `package` is the name and release of the package that a
    method comes with, if it is another one.
    """

    name: str
    version: int
    summary: str
    equation: str
    notes: str
    base: Literal["required", "optional", "ignored"]
    inputs: tuple[int, int | None]
    parameters: Mapping[str, Parameter]
    missing: Literal["subset", "single", "base-single", "base-or-skip", "error"]
    run: Callable[[Operands, Arguments], Steps]
    papers: tuple[Paper, ...] = ()
    random: bool = False
    whole: bool = False
    package: str | None = None
    inert: frozenset[str] = field(default_factory=frozenset)
    idle: Callable[[Operands, Arguments], frozenset[str]] = nothing_idle
    check: Callable[[Operands, Arguments], Iterator[Finding]] = no_findings
    held: Callable[[Operands], int] = nothing_held
