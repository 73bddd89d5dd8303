"""Filters, gradients and the order of levels."""

from __future__ import annotations

import pytest

from mergebuild.errors import Location
from mergebuild.recipe.filters import fault
from mergebuild.recipe.model import Condition, Parameters, Scalar, Setting, Value
from mergebuild.recipe.values import conditions, first, interpolate, matches

AT = Location("r.yaml", 1, 1)
NAME = "model.layers.11.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("filter", "native", "expected"),
    [
        (None, False, True),
        ("*", False, True),
        ("*", True, True),
        ("mlp", False, True),
        ("layers.1", True, True),
        ("MLP", False, False),
        ("l*.mlp", False, False),
        ("l*.mlp", True, True),
        ("mlp*layers", True, False),
        ("*weight", True, True),
        ("/layers/", False, False),
        (r"/layers\.1\d\./", True, True),
        (r"/layers\.1\./", True, False),
        ("/", True, False),
    ],
)
def test_matches(filter: str | None, native: bool, expected: bool) -> None:
    assert matches(filter, NAME, native) is expected


@pytest.mark.parametrize(
    ("value", "t", "expected"),
    [
        (0.5, 0.3, 0.5),
        (None, 0.3, None),
        ((2.0,), 1.0, 2.0),
        ((0.0, 1.0), 0.25, 0.25),
        ((0.0, 0.5, 0.3, 0.7, 1.0), 0.5, 0.3),
        ((0.0, 0.5, 0.3, 0.7, 1.0), 0.875, 0.85),
        ((0, 1), 1.0, 1.0),
        ((False, True), 0.99, False),
        ((False, True), 1.0, True),
        (("inverse", True), 0.5, "inverse"),
        ((None, 1.0), 0.5, None),
    ],
)
def test_interpolate(value: Value, t: float, expected: Scalar) -> None:
    assert interpolate(value, t) == pytest.approx(expected, abs=1e-15)


def setting(*conditions: tuple[str | None, Value]) -> Setting:
    return Setting(tuple(Condition(filter, value, AT) for filter, value in conditions), AT)


def test_conditions_count_from_the_nearest_level_to_the_first_that_means_all() -> None:
    near = {"weight": setting(("attn", 1.0), ("mlp", ()), ("up_proj", (0.0, 2.0)))}
    far = {"weight": setting((None, 3.0), ("mlp", 4.0)), "density": setting(("attn", 0.5))}
    levels: tuple[Parameters, ...] = (near, {}, far)
    values = [condition.value for condition in conditions(levels, "weight")]
    assert values == [1.0, (0.0, 2.0), 3.0]
    assert conditions(levels, "missing") == ()


@pytest.mark.parametrize(
    ("tensor", "parameter", "expected"),
    [
        (NAME, "weight", (0.0, 2.0)),
        ("lm_head.weight", "weight", 3.0),
        (NAME, "density", None),
    ],
)
def test_first(tensor: str, parameter: str, expected: Value) -> None:
    near = {"weight": setting(("attn", 1.0), ("up_proj", (0.0, 2.0)))}
    far = {"weight": setting((None, 3.0)), "density": setting(("attn", 0.5))}
    found = first(conditions((near, far), parameter), tensor, native=True)
    assert (found and found.value) == expected


@pytest.mark.parametrize(
    "pattern",
    [
        r"layers\.(1[0-9]|2[0-3])\.(self_attn|mlp)\.",
        r"\.(q|k|v|o)_proj\.",
        r"^(?!.*(q|k)_proj).*weight$",
        r"layers\.\d+\..*(norm)?",
        r"[]()*+]a",
        r"[^]()*+\]]a",
        r"a{2,3}\(*",
    ],
)
def test_usable_expressions(pattern: str) -> None:
    assert fault(f"/{pattern}/") is None


HOSTILE = ["(a+)+$", "(a|a)*b", "a?" * 40 + "a" * 40, ".*" * 9 + "!", "(a|a)" * 30 + "b"]


@pytest.mark.parametrize("pattern", [*HOSTILE, "(", "a" * 201, "(?x)a # (", "a{99999999999}"])
def test_refused_expressions(pattern: str) -> None:
    assert fault(f"/{pattern}/") is not None


def test_the_worst_usable_expression_is_bearable() -> None:
    pattern = "/.*a.*a.*b/"
    assert fault(pattern) is None
    assert not matches(pattern, "a" * 80, native=True)
