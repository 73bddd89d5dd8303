"""The value of a parameter for one tensor: filters, gradients and the order of levels.

Pure evaluation for the planner. Must not know YAML, methods or files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mergebuild.recipe.filters import matches
from mergebuild.recipe.model import Condition, Parameters, Scalar, Value

__all__ = ["conditions", "first", "interpolate", "matches"]


def interpolate(value: Value, t: float) -> Scalar:
    """A gradient's value at depth `t` in [0, 1] of its slice; a scalar is itself everywhere.

    Numbers g[0..n-1]: x = t(n-1), k = floor(x), f = x - k, (1-f)·g[k] + f·g[min(k+1, n-1)].
    A list with anything else in it picks g[k].
    """
    if not isinstance(value, tuple):
        return value
    last = len(value) - 1
    x = t * last
    k = math.floor(x)
    low, high = value[k], value[min(k + 1, last)]
    numbers = [entry for entry in value if type(entry) in (int, float)]
    if last == 0 or len(numbers) <= last:
        return low
    f = x - k
    return (1 - f) * float(low or 0) + f * float(high or 0)


def conditions(levels: Sequence[Parameters], name: str) -> tuple[Condition, ...]:
    """All that levels say of a parameter, in the order in which it counts.

    Levels stand from the nearest (source) to the furthest (top). An empty list is unset. Ends with
    the first condition that matches every tensor: nothing after it is ever asked.
    """
    found: list[Condition] = []
    for parameters in levels:
        setting = parameters.get(name)
        for condition in setting.conditions if setting is not None else ():
            if condition.value == ():
                continue
            found.append(condition)
            if condition.filter is None or condition.filter == "*":
                return tuple(found)
    return tuple(found)


def first(found: Sequence[Condition], tensor_name: str, native: bool) -> Condition | None:
    """The first condition that means this tensor."""
    for condition in found:
        if matches(condition.filter, tensor_name, native):
            return condition
    return None
