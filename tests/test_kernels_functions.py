"""exp, tanh and ln of a quotient: how exact they are, and that torch and the loops have equal bits.

True values are those of decimal arithmetic of 60 digits.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mergebuild.kernels import functions
from mergebuild.kernels.numba import functions as loops
from mergebuild.kernels.numba.jit import jit
from mergebuild.kernels.torch import functions as reference
from tests import chebyshev, kit

Floats = NDArray[np.float64]

SOME = 4000
RANDOM = np.random.default_rng(0)
ANY_BITS: Floats = RANDOM.integers(0, 2**64, 4 * SOME, dtype=np.uint64).view(np.float64)
SPECIAL = np.array(
    [
        *(0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, -5e-324, 1e-320, 1e308, -1e308),
        *(-708.3, -708.4, -744.4, -745.13, -745.14, -746.0, -747.0, 709.78, 709.79, 710.0, 711.0),
        *(functions.EXP_NEAR, -functions.EXP_NEAR, math.log(2) / 2, -math.log(2) / 2),
        *(functions.TANH_NEAR, -functions.TANH_NEAR, np.nextafter(functions.TANH_NEAR, 0)),
        *(19.1, -40.0),
    ]
)  # fmt: skip
WIDE = RANDOM.uniform(-708, 709.7, SOME)
NEAR = RANDOM.uniform(-0.36, 0.36, SOME)
TINY = RANDOM.normal(size=SOME) * 10.0 ** RANDOM.uniform(-30, 1, SOME)
SUBNORMAL = RANDOM.uniform(-745, -708, SOME)


@jit
def exp_of(x: Any, into: Any) -> None:
    for j in range(len(x)):
        into[j] = loops.exp(x[j])


@jit
def exp_near_of(x: Any, into: Any) -> None:
    for j in range(len(x)):
        into[j] = loops.exp_near(x[j])


@jit
def tanh_of(x: Any, into: Any) -> None:
    for j in range(len(x)):
        into[j] = loops.tanh(x[j])


@jit
def tanh_near_of(x: Any, into: Any) -> None:
    for j in range(len(x)):
        into[j] = loops.tanh_near(x[j])


@jit
def log_quotient_of(p: Any, q: Any, into: Any) -> None:
    for j in range(len(p)):
        into[j] = loops.log_quotient(p[j], q[j])


def looped(loop: Callable[..., None], *arguments: Floats) -> Floats:
    into = np.empty_like(arguments[0])
    loop(*arguments, into)
    return into


def by_torch(function: Callable[..., torch.Tensor], *arguments: Floats) -> Floats:
    return np.asarray(function(*map(torch.from_numpy, arguments)).numpy())


def bits(values: Floats) -> bytes:
    """All but those of NaN, which only is NaN."""
    return np.where(np.isnan(values), np.nan, values).tobytes()


def units(found: Floats, true: Callable[..., Decimal], *arguments: Floats) -> float:
    """The largest error in units in the last place of the true value."""
    with localcontext(Context(prec=60)):
        worst = Decimal(0)
        for number, *given in zip(found.tolist(), *(a.tolist() for a in arguments), strict=True):
            value = true(*map(Decimal, given))
            worst = max(worst, abs(Decimal(number) - value) / Decimal(math.ulp(float(value))))
        return float(worst)


def log_of_quotient(p: Decimal, q: Decimal) -> Decimal:
    return (p / q).ln()


@pytest.mark.parametrize("name", chebyshev.WANTED)
def test_coefficients_are_those_of_the_interpolation(name: str) -> None:
    assert getattr(functions, name) == chebyshev.coefficients(name)


@pytest.mark.parametrize("name", chebyshev.WANTED)
def test_polynomials_are_close_enough(name: str) -> None:
    """With their rounded coefficients: what is missed of the result, relative to it."""
    function, low, high, degree = chebyshev.WANTED[name]
    weights: dict[str, chebyshev.Function] = {
        "EXP": lambda x: x * x / x.exp(),
        "LOG": lambda w: w / 2,
        "TANH": lambda w: w,
    }
    weight = weights[name]
    with localcontext(Context(prec=60)):
        rounded = list(map(Decimal, getattr(functions, name)))
        assert len(rounded) == degree + 1
        polynomial = chebyshev.series(len(rounded), rounded.__getitem__)
        step = (Decimal(high) - Decimal(low)) / 301
        points = [Decimal(low) + step * (k + Decimal("0.5")) for k in range(301)]
        missed = [abs(polynomial(x) - function(x)) * weight(x) for x in points]
    assert max(missed) < 2**-55


def test_the_parts_of_ln_2() -> None:
    with localcontext(Context(prec=60)):
        two = Decimal(2).ln()
        assert float(two - Decimal(functions.LN2_HIGH)) == functions.LN2_LOW
        assert float(1 / two) == functions.LOG2E
    assert all(
        math.fsum([functions.LN2_HIGH] * k) == functions.LN2_HIGH * k
        and (functions.LN2_HIGH * 2**40 * k).is_integer()
        for k in (1, 3, 1023, 1075)
    )
    assert np.float64(functions.ROUND).view(np.int64) == functions.ROUND_BITS


@pytest.mark.parametrize("x", [WIDE, NEAR, TINY, SUBNORMAL], ids=["wide", "near", "tiny", "sub"])
def test_exp_is_as_exact_as_it_says(x: Floats) -> None:
    assert units(looped(exp_of, x), Decimal.exp, x) < 1.1


@pytest.mark.parametrize(
    "x", [3 * NEAR, 10 * NEAR, TINY, NEAR / 10], ids=["1", "4", "tiny", "near"]
)
def test_tanh_is_as_exact_as_it_says(x: Floats) -> None:
    assert units(looped(tanh_of, x), wide_tanh, x) < 3


def wide_tanh(z: Decimal) -> Decimal:
    """e^2z - 1 loses as many digits as z is small."""
    with localcontext(Context(prec=120)):
        return chebyshev.tanh(z)


def quotients() -> list[tuple[Floats, Floats]]:
    floor = RANDOM.uniform(0, 1, SOME) * 10.0 ** RANDOM.uniform(-8, 0, SOME) + 1e-8
    other = RANDOM.uniform(0, 1, SOME) * 10.0 ** RANDOM.uniform(-8, 0, SOME) + 1e-8
    near = floor * (1 + RANDOM.normal(size=SOME) * 1e-6)
    factor = 2.0 ** RANDOM.uniform(-300, 300, SOME)
    return [(floor, other), (near, floor), (floor * RANDOM.uniform(0.5, 2, SOME), floor),
            (floor * factor, other / factor)]  # fmt: skip


@pytest.mark.parametrize(("p", "q"), quotients(), ids=["probabilities", "near", "twice", "far"])
def test_log_is_as_exact_as_it_says(p: Floats, q: Floats) -> None:
    found = looped(log_quotient_of, p, q)
    assert units(found, log_of_quotient, p, q) < 2
    assert bits(by_torch(reference.log_quotient, p, q)) == bits(found)
    assert not looped(log_quotient_of, p, p).any()
    for one, two in ((p, q * np.nan), (p * np.nan, q)):
        assert np.isnan(looped(log_quotient_of, one, two)).all()
        assert np.isnan(by_torch(reference.log_quotient, one, two)).all()


@pytest.mark.parametrize(
    "x",
    [WIDE, NEAR, TINY, SUBNORMAL, SPECIAL, ANY_BITS],
    ids=["wide", "near", "tiny", "sub", "odd", "any"],
)
def test_loops_and_torch_have_the_same_bits(x: Floats) -> None:
    grown, turned = looped(exp_of, x), looped(tanh_of, x)
    assert bits(grown) == bits(by_torch(reference.exp, x))
    assert bits(turned) == bits(by_torch(reference.tanh, x))
    near = ~(np.abs(x) > functions.EXP_NEAR)
    assert bits(looped(exp_near_of, x[near])) == bits(grown[near])
    near = ~(np.abs(x) >= functions.TANH_NEAR)
    assert bits(looped(tanh_near_of, x[near])) == bits(turned[near])


@pytest.mark.parametrize(
    ("x", "grown", "turned"),
    [
        (0.0, 1.0, 0.0),
        (-0.0, 1.0, 0.0),
        (math.inf, math.inf, 1.0),
        (-math.inf, 0.0, -1.0),
        (710.0, math.inf, 1.0),
        (-746.0, 0.0, -1.0),
        (-745.1, 5e-324, -1.0),
        (5e-324, 1.0, 5e-324),
    ],
)
def test_edges(x: float, grown: float, turned: float) -> None:
    for found in (looped(exp_of, np.array([x])), by_torch(reference.exp, np.array([x]))):
        assert found.tolist() == [grown]
    for found in (looped(tanh_of, np.array([x])), by_torch(reference.tanh, np.array([x]))):
        assert found.tolist() == [turned]


CODE = """
from tests.test_kernels_functions import NEAR, exp_of, log_quotient_of, looped, tanh_of
for loop in (exp_of, tanh_of, log_quotient_of):
    looped(loop, *([NEAR + 1] * (2 if loop is log_quotient_of else 1)))
    print(*loop.inspect_asm().values(), *loop.inspect_llvm().values())
"""


def test_no_step_is_contracted(tmp_path: Path) -> None:
    """Where the processor could: it would round once where two roundings are defined. Only code
    that is compiled in the same process can be looked at."""
    code = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, cwd=kit.ROOT,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
    ).stdout  # fmt: skip
    assert all(f"{loop}_of" in code for loop in ("exp", "tanh", "log_quotient"))
    assert "fdiv" in code
    for contracted in ("fmadd", "fmsub", "fmuladd"):
        assert contracted not in code


SCRIPT = """
import zlib
import numpy as np
import torch
from mergebuild.kernels.choose import default_kernels
from mergebuild.kernels import evaluate
from mergebuild.methods import registry
from mergebuild.methods.declaration import Operands
from tests.methods_reference import Memory, bits
shape, random = (90, 1000), np.random.default_rng(0)
base = random.normal(size=shape) * np.where(np.arange(90) % 2, 0.02, 3.0)[:, None]
inputs = [base + scale * random.normal(size=shape) for scale in (0.0, 0.001, 0.5)]
for name, count, given in (
    ("arcee_fusion", 2, {}), ("pcb_merging", 3, {"density": (0.5, 0.9), "lambda": 1.0})
):
    steps = registry()[name].run(Operands(count, True, shape, ()), given)
    out = torch.empty(shape)
    readers = [Memory(torch.from_numpy(values).float()) for values in inputs[:count]]
    evaluate(steps, readers, Memory(out), "float32", kernels=default_kernels())
    print(name, zlib.crc32(bits(out)))
"""
OTHER_PROCESSORS = {
    "none of its vectors": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
    "torch, plainly": {"MERGEBUILD_KERNELS": "torch", "ATEN_CPU_CAPABILITY": "default"},
}


def digests(**variables: str) -> str:
    environment = {**os.environ, **variables}
    for name in {"MERGEBUILD_KERNELS", "ATEN_CPU_CAPABILITY"} - set(variables):
        environment.pop(name, None)
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True, text=True, check=True, cwd=kit.ROOT, env=environment,
    ).stdout  # fmt: skip


def test_other_processors_make_the_same_bytes(tmp_path: Path) -> None:
    """Code for a processor of the least abilities, in place of this one's."""
    here = digests()
    assert here.split()[::2] == ["arcee_fusion", "pcb_merging"]
    for name, variables in OTHER_PROCESSORS.items():
        assert digests(**variables, NUMBA_CACHE_DIR=str(tmp_path)) == here, name
