"""What texts, numbers and mappings are in a schema, in native recipes and in mergekit files.

Owns JSON schema's words (draft 7, which editors know best). Must not know which keys there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from mergebuild.recipe.variables import NAME as VARIABLE

Schema: TypeAlias = dict[str, Any]

NULL: Final[Schema] = {"type": "null"}
ANYTHING: Final[Schema] = {}
TEXT: Final[Schema] = {"type": ["string", "number"], "pattern": r"\S"}
"""What YAML takes for a number is text, too."""


def either(*options: Schema) -> Schema:
    """What fits one of them; options of options are put beside them."""
    found: list[Schema] = []
    for option in options:
        inner = option.get("anyOf") if option.keys() == {"anyOf"} else None
        found += inner if inner is not None else [option]
    return found[0] if len(found) == 1 else {"anyOf": found}


def told(description: str, schema: Schema) -> Schema:
    """The schema with what an editor shows of it."""
    if "$ref" in schema:  # hides what stands beside it
        schema = {"anyOf": [schema]}
    return {"description": description, **schema}


def optional(schema: Schema) -> Schema:
    """A key without a value is one that is not there."""
    inner = {key: value for key, value in schema.items() if key != "description"}
    found = either(inner, NULL) if inner else {}
    return told(schema["description"], found) if "description" in schema else found


def closed(keys: Iterable[str], shapes: Mapping[str, Schema], *required: str) -> Schema:
    """A mapping with just the keys that its reader knows. Raises KeyError for one without shape."""
    properties = {key: shapes[key] if key in required else optional(shapes[key]) for key in keys}
    found: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**found, "required": list(required)} if required else found


def named(value: Schema, names: Schema | None = None, least: int = 0) -> Schema:
    """A mapping whose keys are the user's."""
    found: Schema = {"type": "object", "additionalProperties": value}
    if names is not None:
        found["propertyNames"] = names
    return {**found, "minProperties": least} if least else found


def listed(item: Schema) -> Schema:
    """A list that must not be empty."""
    return {"type": "array", "items": item, "minItems": 1}


def given(*keys: str) -> Schema:
    """Says of a mapping that it has these keys, with values."""
    return {"required": list(keys), "properties": {key: {"not": NULL} for key in keys}}


def one_of(*keys: str) -> Schema:
    """Says of a mapping that it has just one of these keys."""
    return {"oneOf": [given(key) for key in keys]}


def use(name: str) -> Schema:
    """What the schema defines under a name."""
    return {"$ref": f"#/definitions/{name}"}


@dataclass(frozen=True, slots=True)
class Terms:
    """The words of a dialect: in native recipes a variable may stand where a value is."""

    native: bool

    def value(self, *options: Schema) -> Schema:
        return either(*options, use("variable")) if self.native else either(*options)

    def whole(self, low: int) -> Schema:
        return self.value({"type": "integer", "minimum": low})

    def number(self, **bounds: float) -> Schema:
        return self.value({"type": "number", **bounds})

    def truth(self) -> Schema:
        return self.value({"type": "boolean"})

    def choice(self, words: Sequence[str]) -> Schema:
        return self.value({"enum": list(words)})

    def definitions(self) -> Schema:
        """What `value` refers to."""
        pattern = r"^\$\{" + VARIABLE.pattern + r"\}$"
        variable = {"description": "A variable.", "type": "string", "pattern": pattern}
        return {"variable": variable} if self.native else {}
