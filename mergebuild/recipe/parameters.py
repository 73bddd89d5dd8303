"""The `parameters:` of one level -> settings, every value checked against the method's declaration.

Owns the four ways to write a value (scalar, gradient, condition, conditions) and their types and
bounds. Must not know which level it reads, nor which parameters are missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from mergebuild.errors import did_you_mean, nearest
from mergebuild.methods.declaration import Parameter
from mergebuild.recipe import fields
from mergebuild.recipe.context import Context, shown
from mergebuild.recipe.filters import fault
from mergebuild.recipe.model import Condition, Scalar, Setting, Value
from mergebuild.recipe.tree import Entry, Fields, Items, Leaf, Tree

NUMBER: Final = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_WRONG: Final = object()
CONDITION_KEYS: Final = ("filter", "value")


def read(keys: Mapping[str, Entry], ctx: Context) -> dict[str, Setting]:
    """The parameters under the key `parameters` of a level, if it has one.

    What could not be read is there as a setting without conditions, so that it is not missed too.
    """
    if "parameters" not in keys:
        return {}
    found: dict[str, Setting] = {}
    for name, entry in fields.entries(keys["parameters"].value, "'parameters'", ctx).items():
        method, before = ctx.method, len(ctx.problems)
        if method is not None and name in method.inert:
            ctx.warn(f"parameter '{name}' has no effect under '{method.name}'", entry.at)
        elif method is not None and name not in method.parameters:
            if meant := _unknown(name, entry, ctx):
                found.setdefault(meant, Setting((), entry.at))
        else:
            conditions = _conditions(name, entry, ctx)
            if conditions or len(ctx.problems) > before:
                found[name] = Setting(conditions, entry.at)
    return found


def _unknown(name: str, entry: Entry, ctx: Context) -> str | None:
    """Reports the name; the known one that was likely meant, if the recipe is refused anyway."""
    assert ctx.method is not None
    message = f"'{ctx.method.name}' has no parameter {shown(name)}"
    known = sorted(ctx.method.parameters)
    if ctx.native or ctx.strict:
        ctx.error(message, entry.at, did_you_mean(name, known))
        return nearest(name, known)
    ctx.warn(f"{message}; it is ignored", entry.at, did_you_mean(name, known))
    return None


def _conditions(name: str, entry: Entry, ctx: Context) -> tuple[Condition, ...]:
    """The conditions that say something: an empty list is unset."""
    value = entry.value
    if isinstance(value, Fields):
        parts: tuple[Tree, ...] = (value,)
    elif isinstance(value, Items) and any(isinstance(item, Fields) for item in value.items):
        parts = value.items
    else:
        read_value = _value(name, value, ctx)
        return () if read_value == () else (Condition(None, read_value, value.at),)
    found = [_condition(name, part, ctx) for part in parts]
    return tuple(condition for condition in found if condition and condition.value != ())


def _condition(name: str, tree: Tree, ctx: Context) -> Condition | None:
    what = f"a condition of '{name}'"
    if not isinstance(tree, Fields):
        said = f"parameter {shown(name)} mixes conditions with plain values"
        ctx.error(said, tree.at, "write '{filter: \"*\", value: ...}' for all other tensors")
        return None
    before = len(ctx.problems)
    fields.entries(tree, what, ctx, CONDITION_KEYS)
    if "value" not in tree.entries:
        if len(ctx.problems) == before:
            ctx.error(f"{what} has no 'value'", tree.at)
        return None
    pattern = _filter(tree.entries["filter"].value, ctx) if "filter" in tree.entries else None
    return Condition(pattern, _value(name, tree.entries["value"].value, ctx), tree.at)


def _filter(tree: Tree, ctx: Context) -> str | None:
    if fields.is_null(tree):
        return None
    text = fields.text(tree, "'filter'", ctx)
    if text is not None and ctx.native and (why := fault(text)):
        ctx.error(f"filter {shown(text)} cannot be used: {why}", tree.at)
    return text


def _value(name: str, tree: Tree, ctx: Context) -> Value:
    parameter = ctx.method.parameters.get(name) if ctx.method else None
    if isinstance(tree, Leaf):
        return _scalar(name, tree, parameter, ctx)
    if isinstance(tree, Fields):
        ctx.error(f"parameter {shown(name)} has a mapping where a value belongs", tree.at)
        return None
    for item in tree.items:
        if not isinstance(item, Leaf):
            said = f"parameter {shown(name)} has {fields.described(item)} inside a list"
            ctx.error(said, item.at, "a gradient is a flat list of values")
            return None
    gradient = tuple(
        _scalar(name, item, parameter, ctx) for item in tree.items if isinstance(item, Leaf)
    )
    if parameter is not None and parameter.type is int and len(gradient) > 1:
        ctx.error(f"parameter '{name}' is a whole number and takes no gradient", tree.at)
    return gradient


def _scalar(name: str, leaf: Leaf, parameter: Parameter | None, ctx: Context) -> Scalar:
    if parameter is None:
        return leaf.value
    value = _typed(leaf.value, parameter)
    if value is _WRONG:
        said = f"parameter '{name}' must be {_kinds(parameter)}, not {fields.described(leaf)}"
        hint = None
        if isinstance(leaf.value, str) and parameter.choices:
            hint = did_you_mean(leaf.text, parameter.choices)
        elif leaf.value is None:
            hint = "leave the key out to get the default"
        ctx.error(said, leaf.at, hint)
        return None
    assert value is None or isinstance(value, bool | int | float | str)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            ctx.error(f"parameter '{name}' must be finite, not {leaf.text}", leaf.at)
        elif not _within(value, parameter):
            ctx.error(f"parameter '{name}' must be {_bounds(parameter)}, not {leaf.text}", leaf.at)
    return value


def _typed(value: Scalar, parameter: Parameter) -> object:
    """The value in the parameter's type, or _WRONG. 0 and 1 are truth values as well."""
    if value is None:
        return None if parameter.nullable else _WRONG
    if isinstance(value, str) and value in parameter.choices:
        return value
    if isinstance(value, str) and NUMBER.fullmatch(value):
        value = float(value)
    if parameter.type is bool:
        return bool(value) if not isinstance(value, str) and value in (0, 1) else _WRONG
    if isinstance(value, bool | str):
        return _WRONG
    if parameter.type is int:
        return int(value) if math.isfinite(value) and value == int(value) else _WRONG
    return float(value) if abs(value) < 1e308 or isinstance(value, float) else math.inf


def _within(value: float, parameter: Parameter) -> bool:
    low, high = parameter.low, parameter.high
    above = low is None or value > low or (value == low and not parameter.low_open)
    below = high is None or value < high or (value == high and not parameter.high_open)
    return above and below


def _kinds(parameter: Parameter) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number"}
    extra = [f"'{choice}'" for choice in parameter.choices] + ["null"] * parameter.nullable
    return " or ".join([kinds[parameter.type], *extra])


def _bounds(parameter: Parameter) -> str:
    low, high = parameter.low, parameter.high
    if low is not None and high is not None and not (parameter.low_open or parameter.high_open):
        return f"between {low:g} and {high:g}"
    parts = []
    if low is not None:
        parts.append(f"above {low:g}" if parameter.low_open else f"at least {low:g}")
    if high is not None:
        parts.append(f"below {high:g}" if parameter.high_open else f"at most {high:g}")
    return " and ".join(parts)
