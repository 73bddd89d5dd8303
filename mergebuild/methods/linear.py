"""The weighted average of the inputs, and the copy of one."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Annotated, Any

from mergebuild.kernels.operations import Combination, Identity, Map
from mergebuild.methods.declaration import Arguments, Finding, Operands, Paper
from mergebuild.methods.declare import Floats, method, per_input, shared

NEARLY_ZERO = 1e-8
LARGEST = 2.0**127


def _check_linear(operands: Operands, arguments: Arguments) -> Iterator[Finding]:
    weight = arguments["weight"]
    if arguments["normalize"] and abs(total(weight)) < NEARLY_ZERO:
        yield Finding("error", "the weights add up to 0 and cannot be normalized")


def _idle_linear(operands: Operands, arguments: Arguments) -> frozenset[str]:
    weight = arguments["weight"]
    return frozenset({"normalize"}) if total(weight) == 1.0 else frozenset()


def _idle_passthrough(operands: Operands, arguments: Arguments) -> frozenset[str]:
    return frozenset({"scale"}) if arguments["scale"] in ((None,), (1.0,)) else frozenset()


def total(weight: Any) -> float:
    """Rounded once, hence the same on every Python."""
    return math.fsum(weight)


def exact(number: float) -> bool:
    """Whether a float32 holds this number."""
    if not abs(number) < LARGEST:
        return False
    (rounded,) = struct.unpack("<f", struct.pack("<f", number))
    return bool(rounded == number)


@method(
    base="ignored",
    inputs=(1, None),
    missing="subset",
    papers=(
        Paper(
            "Model soups: averaging weights of multiple fine-tuned models improves accuracy "
            "without increasing inference time",
            "Wortsman et al.",
            "2203.05482",
        ),
    ),
    idle=_idle_linear,
    check=_check_linear,
)
def linear(
    operands: Operands,
    *,
    weight: Annotated[Floats, per_input("How much of this input, w_i.")],
    normalize: Annotated[bool, shared("Divide the weights by their sum.", default=True)],
) -> Map:
    """Weighted average (arXiv:2203.05482).

    y = Σ c_i·x_i,  c_i = w_i / Σw if normalize, else w_i

    Weights that add up to 0 are an error where they are to be normalized. Σ w_i·x_i is divided once
    where that rounds less often.
    """
    divisor = total(weight) if normalize else 1.0
    shares = tuple(w / divisor for w in weight)
    if all(map(exact, (*weight, divisor))) and not all(map(exact, shares)):
        from mergebuild.kernels.places import Average

        return Average(weight, divisor)
    return Combination("inputs", shares)


@method(base="ignored", inputs=(1, 1), missing="error", idle=_idle_passthrough)
def passthrough(
    operands: Operands,
    *,
    scale: Annotated[
        tuple[float | None, ...], per_input("Factor; null and 1 copy the input.", default=None)
    ],
) -> Map:
    """One input as it is, or scaled.

    y = scale·x, or x where scale is null
    """
    (factor,) = scale
    return Identity() if factor in (None, 1.0) else Combination("inputs", (factor or 0.0,))
