"""A merge method's signature is its schema: from a typed function to a `Method`.

    @method(base="required", inputs=(1, 1), missing="single")
    def slerp(operands: Operands, *, t: Annotated[float, shared("Where on the arc.")]) -> Steps:

Keyword-only arguments are the parameters: the annotation gives type and choices, the marker scope,
default, bounds and doc. A trailing underscore is dropped (`lambda_` is 'lambda'). The docstring's
first paragraph is the summary, the second the equation, the rest are notes. A method that needs no
statistics is a plain function that returns its map.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from mergebuild.kernels.operations import Map, Steps
from mergebuild.methods.declaration import (
    REQUIRED,
    Argument,
    Arguments,
    Finding,
    Method,
    Operands,
    Paper,
    Parameter,
    Required,
    Scope,
    no_findings,
    nothing_held,
    nothing_idle,
)

Floats: TypeAlias = tuple[float, ...]
Formula: TypeAlias = Callable[..., Steps | Map]


@dataclass(frozen=True, slots=True)
class Marker:
    """What an annotation says of a parameter besides its type."""

    scope: Scope
    doc: str
    default: Argument | Required
    low: float | None
    high: float | None
    low_open: bool
    high_open: bool


def _marker(scope: Scope) -> Callable[..., Marker]:
    def marker(
        doc: str,
        *,
        default: Argument | Required = REQUIRED,
        low: float | None = None,
        high: float | None = None,
        low_open: bool = False,
        high_open: bool = False,
    ) -> Marker:
        return Marker(scope, doc, default, low, high, low_open, high_open)

    return marker


shared = _marker(Scope.SHARED)
per_input = _marker(Scope.INPUT)
per_delta = _marker(Scope.DELTA)


def method(
    *,
    base: Literal["required", "optional", "ignored"],
    inputs: tuple[int, int | None],
    missing: Literal["subset", "single", "base-single", "base-or-skip", "error"],
    version: int = 1,
    papers: tuple[Paper, ...] = (),
    random: bool = False,
    whole: bool = False,
    inert: tuple[str, ...] = (),
    idle: Callable[[Operands, Arguments], frozenset[str]] = nothing_idle,
    check: Callable[[Operands, Arguments], Iterator[Finding]] = no_findings,
    held: Callable[[Operands], int] = nothing_held,
) -> Callable[[Formula], Method]:
    """Declare the decorated function as a merge method; see `Method` for the fields."""

    def declare(function: Formula) -> Method:
        summary, equation, notes = _paragraphs(function)
        names = {name: name.rstrip("_") for name in _keywords(function)}
        hints = get_type_hints(function, include_extras=True)
        parameters = {
            public: parameter_of(public, hints[name]) for name, public in sorted(names.items())
        }

        def run(operands: Operands, arguments: Arguments) -> Steps:
            made = function(operands, **given_to(names, parameters, operands, arguments))
            return at_once(made) if isinstance(made, Map) else made

        return Method(
            name=function.__name__,
            version=version,
            summary=summary,
            equation=equation,
            notes=notes,
            base=base,
            inputs=inputs,
            parameters=MappingProxyType(parameters),
            missing=missing,
            run=run,
            papers=papers,
            random=random,
            whole=whole,
            inert=frozenset(inert),
            idle=idle,
            check=check,
            held=held,
        )

    return declare


def given_to(
    names: Mapping[str, str],
    parameters: Mapping[str, Parameter],
    operands: Operands,
    arguments: Arguments,
) -> dict[str, Any]:
    """Keyword arguments of a function, by their names there; defaults for what is not given."""
    return {
        name: arguments[public] if public in arguments else _default(parameters[public], operands)
        for name, public in names.items()
    }


def at_once(result: Map) -> Steps:
    """The steps of a method that needs no statistics."""
    yield from ()
    return result


def _paragraphs(function: Formula) -> tuple[str, str, str]:
    paragraphs = (inspect.getdoc(function) or "").split("\n\n")
    if len(paragraphs) < 2:
        raise TypeError(f"{function.__name__}: the docstring has no summary and equation")
    notes = " ".join(" ".join(paragraphs[2:]).split())
    return " ".join(paragraphs[0].split()), inspect.cleandoc(paragraphs[1]), notes


def _keywords(function: Formula) -> list[str]:
    return [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]


def parameter_of(name: str, hint: Any) -> Parameter:
    """From `Annotated[type, marker]`; raises TypeError for what is no parameter."""
    if get_origin(hint) is not Annotated:
        raise TypeError(f"parameter '{name}' is not annotated with shared, per_input or per_delta")
    annotation, marker = get_args(hint)
    if (get_origin(annotation) is tuple) == (marker.scope is Scope.SHARED):
        raise TypeError(f"parameter '{name}': tuples are for scoped parameters, and only for them")
    kind, choices, nullable = _value(
        get_args(annotation)[0] if get_origin(annotation) is tuple else annotation
    )
    return Parameter(
        name=name,
        type=kind,
        scope=marker.scope,
        default=marker.default,
        doc=marker.doc,
        low=marker.low,
        high=marker.high,
        low_open=marker.low_open,
        high_open=marker.high_open,
        nullable=nullable,
        choices=choices,
    )


def _value(annotation: Any) -> tuple[type, tuple[str, ...], bool]:
    """Type, choices and nullability of one value."""
    union = get_origin(annotation) in (Union, UnionType)
    members = get_args(annotation) if union else (annotation,)
    choices = tuple(c for m in members if get_origin(m) is Literal for c in get_args(m))
    types = [m for m in members if m in (bool, int, float)]
    if len(types) != 1:
        raise TypeError(f"{annotation} is not one of bool, int, float, with choices or None")
    return types[0], choices, NoneType in members


def _default(parameter: Parameter, operands: Operands) -> Argument | tuple[Argument, ...]:
    if isinstance(parameter.default, Required):
        raise TypeError(f"parameter '{parameter.name}' is required")
    if parameter.scope is Scope.SHARED:
        return parameter.default
    count = operands.count if parameter.scope is Scope.INPUT else operands.deltas
    return (parameter.default,) * count
