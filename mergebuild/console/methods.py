"""Merge methods as text: a list, and all that a user needs to write a node with one."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Final

from mergebuild.methods import FAMILIES, Registry, family_of
from mergebuild.methods.declaration import REQUIRED, Method, Parameter, Scope

WIDTH: Final = 96
WHOLE: Final = (
    "Holds whole tensors in memory, in float32, on the device that --device names; last bits "
    "depend on what computes them."
)
SYMBOLS: Final = {
    "x_i": "x_i are the models as listed",
    "x_0": "x_0 is the base and x_1 the other model",
    "d_i": "d_i = x_i - b is what model i adds to the base b",
    "w_i": "w_i is the weight of model i",
}


def grouped(methods: Mapping[str, Method]) -> dict[str, list[Method]]:
    """Methods under the headings of their families, built-in ones first."""
    found: dict[str, list[Method]] = {family: [] for family in FAMILIES}
    for method in methods.values():
        found.setdefault(family_of(method), []).append(method)
    return {family: members for family, members in found.items() if members}


def method_list(methods: Mapping[str, Method]) -> str:
    width = max(map(len, methods)) + 4
    lines: list[str] = []
    for family, members in grouped(methods).items():
        lines += [*([""] if lines else []), f"{family}:"]
        for method in members:
            lines += _hanging(f"  {method.name}".ljust(width), without_papers(method.summary))
    lines += ["", "'mergebuild methods NAME' shows one with its parameters and an example"]
    if isinstance(methods, Registry) and methods.problems:
        lines += ["", "not usable:"]
        for problem in methods.problems:
            lines += _hanging("  ", f"{problem.message} (hint: {problem.hint})")
    return "\n".join(lines)


def method_text(method: Method) -> str:
    """Equation, inputs, parameters with ranges and defaults, references and an example."""
    parts = [
        _wrapped(f"{method.name}: {without_papers(method.summary)}"),
        textwrap.indent(method.equation.strip(), "  "),
        _wrapped(symbols(method)),
        _wrapped(method.notes),
        f"inputs: {inputs(method)}",
    ]
    if method.parameters:
        width = max(map(len, method.parameters)) + 4
        lines = ["parameters:"]
        for parameter in method.parameters.values():
            lines.append(
                f"  {parameter.name}".ljust(width) + f"{kind(parameter)}; {default(parameter)}"
            )
            lines += _hanging(" " * width, parameter.doc)
        lines += _hanging(
            "  ",
            "A list in place of a value is a gradient over the layers, a list of "
            "{filter, value} chooses by tensor name.",
        )
        parts.append("\n".join(lines))
    if method.whole:
        parts.append(_wrapped(WHOLE))
    if method.inert:
        parts.append("accepted without effect: " + ", ".join(sorted(method.inert)))
    parts += [_wrapped(f"reference: {reference}") for reference in references(method)]
    if method.package:
        parts.append(f"from: {method.package}")
    parts.append("example:\n" + textwrap.indent(example(method), "  "))
    return "\n\n".join(part for part in parts if part.strip())


def without_papers(summary: str) -> str:
    return re.sub(r"\s*\(arXiv:[^)]*\)", "", summary)


def references(method: Method) -> Iterator[str]:
    for paper in method.papers:
        where = f", https://arxiv.org/abs/{paper.arxiv}" if paper.arxiv else ""
        yield f"{paper.authors}: {paper.title}{where}"


def symbols(method: Method) -> str:
    """What the letters of the equation mean, as far as it uses them."""
    found = [meaning for letter, meaning in SYMBOLS.items() if letter in method.equation]
    return f"Here {', '.join(found)}." if found else ""


def inputs(method: Method) -> str:
    least, most = method.inputs
    if most == least:
        count = f"{least} model{'s' * (least != 1)}"
    else:
        count = f"{least or 'any number of'}{' or more' * bool(least)} models"
    return {
        "required": f"a base_model and {count}",
        "optional": f"{count}, with or without a base_model",
        "ignored": f"{count}; a base_model has no part in it",
    }[method.base]


def kind(parameter: Parameter) -> str:
    """Type, bounds, and where it is written."""
    name = {bool: "true or false", int: "whole number", float: "number"}[parameter.type]
    choices = "".join(f" or {choice}" for choice in parameter.choices)
    null = " or null" if parameter.nullable else ""
    where = {
        Scope.SHARED: "for the node",
        Scope.INPUT: "for each model",
        Scope.DELTA: "for each model but the base",
    }[parameter.scope]
    return f"{name}{choices}{null}{_bounds(parameter)}, {where}"


def _bounds(parameter: Parameter) -> str:
    low, high = parameter.low, parameter.high
    if low is None and high is None:
        return ""
    if low is not None and high is not None and not (parameter.low_open or parameter.high_open):
        return f" from {low:g} to {high:g}"
    below = "" if low is None else f" {'above' if parameter.low_open else 'from'} {low:g}"
    above = "" if high is None else f" {'below' if parameter.high_open else 'up to'} {high:g}"
    return below + above


def default(parameter: Parameter) -> str:
    if parameter.default is REQUIRED:
        return "required"
    if parameter.default is None:
        return "default null"
    if isinstance(parameter.default, bool):
        return f"default {str(parameter.default).lower()}"
    return f"default {parameter.default}"


def example(method: Method) -> str:
    """A recipe with one node that uses the method."""
    least, most = method.inputs
    count = max(least, 2) if most is None else least
    names = "abcdefgh"[:count]
    shared = [p for p in method.parameters.values() if p.scope is Scope.SHARED]
    own = [p for p in method.parameters.values() if p.scope is not Scope.SHARED]
    sources = ["base"] * (method.base == "required") + list(names)
    places = ", ".join(f"{name}: org/{name}" for name in sources)
    lines = ["mergebuild: 1", f"sources: {{{places}}}", "nodes:", "  merged:"]
    lines.append(f"    merge_method: {method.name}")
    if method.base == "required":
        lines.append("    base_model: base")
    lines.append("    models:")
    shown = [p for p in own if p.default is REQUIRED or p.name in ("density", "scale")]
    for name in names:
        values = ", ".join(f"{p.name}: {_sample(p)}" for p in shown)
        given = f", parameters: {{{values}}}" if shown else ""
        lines.append(f"      - {{model: {name}{given}}}")
    if shared:
        values = ", ".join(f"{p.name}: {_sample(p)}" for p in shared)
        lines.append(f"    parameters: {{{values}}}")
    return "\n".join([*lines, "    dtype: bfloat16", "outputs: [merged]"])


def _sample(parameter: Parameter) -> str:
    """The default; where there is none, or to show a density, something in the middle."""
    if parameter.default is REQUIRED or parameter.name in ("density", "scale"):
        return {bool: "true", int: "1", float: "0.5"}[parameter.type]
    return default(parameter).removeprefix("default ")


def _wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), WIDTH)


def _hanging(first: str, text: str) -> list[str]:
    rest = " " * len(first)
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=rest) or [
        first.rstrip()
    ]
