"""Polynomials through a function at Chebyshev's points: where the kernels' coefficients are from.

    python -m tests.chebyshev

Interpolation at the zeros of a Chebyshev polynomial comes within a small factor of the least
largest error that any polynomial of the degree has. Arithmetic is decimal, 80 digits.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Final

DIGITS: Final = 80

Function = Callable[[Decimal], Decimal]


def series(terms: int, term: Callable[[int], Decimal]) -> Function:
    """Σ term(n)·xⁿ for n < `terms`."""

    def value(x: Decimal) -> Decimal:
        total = Decimal(0)
        for n in reversed(range(terms)):
            total = total * x + term(n)
        return total

    return value


def factorial(n: int) -> Decimal:
    return Decimal(1) if n < 2 else n * factorial(n - 1)


def tanh(x: Decimal) -> Decimal:
    grown = (2 * x).exp()
    return (grown - 1) / (grown + 1)


def tanh_rest(w: Decimal) -> Decimal:
    """(tanh z - z) / z³ at w = z²."""
    z = w.sqrt()
    return (tanh(z) - z) / (z * w)


EXP_REST: Final = series(40, lambda n: 1 / factorial(n + 2))
"""(e^r - 1 - r) / r²."""
LOG_REST: Final = series(60, lambda n: Decimal(2) / (2 * n + 3))
"""(2·artanh s - 2·s) / s³ at w = s²."""

WANTED: Final[dict[str, tuple[Function, str, str, int]]] = {
    "EXP": (EXP_REST, "-0.347", "0.347", 9),
    "LOG": (LOG_REST, "0", "0.0405", 7),
    "TANH": (tanh_rest, "0", "0.0009765625", 3),
}
"""By name: what is approximated, between what, and the degree."""


def coefficients(name: str) -> tuple[float, ...]:
    """Those of 1, x, x², …, each rounded to float64."""
    function, low, high, degree = WANTED[name]
    with localcontext() as context:
        context.prec = DIGITS
        points = zeros(degree + 1, Decimal(low), Decimal(high))
        return tuple(map(float, through(points, [function(point) for point in points])))


def zeros(count: int, low: Decimal, high: Decimal) -> list[Decimal]:
    """Those of a Chebyshev polynomial on an interval, ascending."""
    middle, half = (low + high) / 2, (high - low) / 2
    return [middle - half * cosine(pi() * (2 * k + 1) / (2 * count)) for k in range(count)]


def through(points: list[Decimal], values: list[Decimal]) -> list[Decimal]:
    """Coefficients of the polynomial through these points, by Newton's divided differences."""
    table = list(values)
    for step in range(1, len(points)):
        for k in reversed(range(step, len(points))):
            table[k] = (table[k] - table[k - 1]) / (points[k] - points[k - step])
    found = [Decimal(0)]
    for point, factor in zip(reversed(points), reversed(table), strict=True):
        shifted = [Decimal(0), *found]
        found = [
            high - point * low for high, low in zip(shifted, [*found, Decimal(0)], strict=True)
        ]
        found[0] += factor
    return found[: len(points)]


def cosine(x: Decimal) -> Decimal:
    return series(60, lambda n: (-1) ** n / factorial(2 * n))(x * x)


def pi() -> Decimal:
    """Machin's formula."""

    def arctangent(inverse: int) -> Decimal:
        x = Decimal(1) / inverse
        return x * series(120, lambda n: Decimal((-1) ** n) / (2 * n + 1))(x * x)

    return 16 * arctangent(5) - 4 * arctangent(239)


def main() -> None:
    for name in WANTED:
        print(name)
        for number in coefficients(name):
            print(f"    {number!r},")


if __name__ == "__main__":
    main()
