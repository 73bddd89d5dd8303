"""The parameters of a method in a schema: everything that may be written under `parameters`.

Derived from the methods' declarations. Must not know where parameters stand.
"""

from __future__ import annotations

from mergebuild.methods.declaration import REQUIRED, Method, Parameter, Scope
from mergebuild.recipe.parameters import CONDITION_KEYS, NUMBER
from mergebuild.recipe.schema.terms import (
    ANYTHING,
    NULL,
    TEXT,
    Schema,
    Terms,
    closed,
    either,
    listed,
    optional,
    told,
    use,
)

_WHERE = {
    Scope.SHARED: "for the node, a module or a slice",
    Scope.INPUT: "for each model",
    Scope.DELTA: "for each model but the base",
}


def parameters(method: Method, terms: Terms) -> Schema:
    """A mapping of a method's parameters. In mergekit files it may have others, too."""
    shapes = {
        name: told(_description(parameter), use(_name(parameter)))
        for name, parameter in method.parameters.items()
    }
    inert = {name: told("Accepted, without effect.", ANYTHING) for name in sorted(method.inert)}
    found: Schema = {"properties": {**shapes, **inert}}
    return {**found, "additionalProperties": False} if terms.native else found


def definitions(method: Method, terms: Terms) -> dict[str, Schema]:
    """What `parameters` refers to: one definition for all parameters of the same values."""
    return {_name(one): _setting(one, terms) for one in method.parameters.values()}


def _description(parameter: Parameter) -> str:
    if parameter.default is REQUIRED:
        default = "required"
    else:
        default = f"default {str(parameter.default).lower()}".replace("none", "null")
    return f"{parameter.doc} ({_WHERE[parameter.scope]}; {default})".strip()


def _name(parameter: Parameter) -> str:
    """Tells type and range, for instance float-from-0-to-1."""
    words = [parameter.type.__name__, *parameter.choices, *["null"] * parameter.nullable]
    if parameter.low is not None:
        words.append(f"{'above' if parameter.low_open else 'from'}-{parameter.low:g}")
    if parameter.high is not None:
        words.append(f"{'below' if parameter.high_open else 'to'}-{parameter.high:g}")
    return "-".join(words)


def _setting(parameter: Parameter, terms: Terms) -> Schema:
    """A scalar, a gradient over the layers, a condition, or a list of conditions."""
    scalar = _scalar(parameter, terms)
    gradient: Schema = {"type": "array", "items": scalar}
    if parameter.type is int:
        gradient["maxItems"] = 1
    plain = either(scalar, gradient)
    shapes = {
        "filter": told("A part of tensors' names; * or none means all.", optional(TEXT)),
        "value": told("A value, or a list: a gradient over the layers.", plain),
    }
    condition = closed(CONDITION_KEYS, shapes, "value")
    return either(plain, condition, listed(condition))


def _scalar(parameter: Parameter, terms: Terms) -> Schema:
    if parameter.type is bool:
        options: list[Schema] = [{"type": "boolean"}, {"enum": [0, 1]}]
    else:
        kind = "integer" if parameter.type is int else "number"
        number: Schema = {"type": kind}
        if parameter.low is not None:
            number["exclusiveMinimum" if parameter.low_open else "minimum"] = parameter.low
        if parameter.high is not None:
            number["exclusiveMaximum" if parameter.high_open else "maximum"] = parameter.high
        options = [number, {"type": "string", "pattern": f"^{NUMBER.pattern}$"}]
    if parameter.choices:
        options.append({"enum": list(parameter.choices)})
    if parameter.nullable:
        options.append(NULL)
    return terms.value(*options)
