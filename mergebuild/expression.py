"""How one tensor of a node follows from its inputs, and the key that says so.

`fields` is the one walker: the key hashes what it yields and `explain` compares what it yields,
so an explanation cannot say other than the key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from mergebuild.digest import (
    FieldValue,
    encode_beginning,
    encode_field,
    fields_digest,
    filled_digest,
    open_encoding,
)
from mergebuild.methods.declaration import Arguments

ROWS_VERSION: Final = 1
"""Part of every key of a view of rows: to be raised when its values change.

1: rows as they are; means of rows summed in float64 in their order, rounded once to float32.
"""


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor that is read: `tensor` of the source or node called `model`, or what stands in its
    place: a view.

    `shape` is given where it is read whole, and may be another than the result's.
    """

    model: str
    tensor: str
    key: str
    dtype: str
    shape: tuple[int, ...] | None = field(default=None, compare=False)
    view: RowsView | None = None

    @property
    def read(self) -> tuple[Operand, ...]:
        """What is read for it: itself, or what its view is made of."""
        return (self,) if self.view is None else self.view.parts


@dataclass(frozen=True, slots=True)
class RowsView:
    """A matrix put together from rows of `parts`, as the row table with the digest `table` says."""

    table: str
    parts: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Expression:
    """A tensor's method, operands and resolved parameters.

    `operands` stand with the base first if `base`. Arguments that cannot change the result stand
    at their defaults. `stream` is the output tensor's name where random masks are drawn: with the
    seed and an operand's key it names that operand's stream.
    """

    method: str
    version: int
    operands: tuple[Operand, ...]
    base: bool
    arguments: Arguments
    dtype: str
    shape: tuple[int, ...]
    stream: str | None = None

    @property
    def unchanged(self) -> bool:
        """Whether the result is its only operand, byte for byte."""
        return (
            self.method == "passthrough"
            and self.arguments.get("scale") == (None,)
            and self.operands[0].dtype == self.dtype
        )


class Field(NamedTuple):
    """One ingredient of a key. `subject` is the operand that it speaks of, None for all.

    `own` ingredients differ from tensor to tensor; the others make up a form that many tensors of
    a node share.
    """

    name: str
    value: FieldValue
    subject: int | None = None
    own: bool = False


def fields(expression: Expression) -> Iterator[Field]:
    """Everything that the tensor depends on, in the order in which it is hashed."""
    yield Field("method", expression.method)
    yield Field("version", expression.version)
    yield Field("dtype", expression.dtype)
    yield Field("shape", expression.shape, None, True)
    count = len(expression.operands)
    yield Field("inputs", count)
    for index, operand in enumerate(expression.operands):
        yield Field("role", "base" if expression.base and index == 0 else "input", index)
        yield Field("content", operand.key, index, True)
    for name in sorted(expression.arguments):
        value = expression.arguments[name]
        if isinstance(value, tuple):
            first = count - len(value)
            for offset, item in enumerate(value):
                yield Field(name, item, first + offset)
        else:
            yield Field(name, value)
    if expression.stream is not None:
        yield Field("stream", expression.stream, None, True)


def view_fields(view: RowsView, dtype: str) -> Iterator[Field]:
    """Everything that a view, read in `dtype`, depends on; subjects are its parts."""
    yield Field("operation", "rows")
    yield Field("version", ROWS_VERSION)
    yield Field("dtype", dtype)
    yield Field("rows", view.table)
    for index, part in enumerate(view.parts):
        yield Field("content", part.key, index)


def view_key(view: RowsView, dtype: str) -> str:
    """The key of what a view shows."""
    found = view_fields(view, dtype)
    return fields_digest("derived", ((_label(f.name, f.subject), f.value) for f in found))


class TensorKeys:
    """Keys of expressions, as `tensor_key` has them. Those that share their arguments, the very
    object, share the encoding of all that does not differ from tensor to tensor."""

    def __init__(self) -> None:
        self._encodings: dict[object, str] = {}

    def key(self, expression: Expression, contents: tuple[str, ...]) -> str:
        """The key of an expression whose operands have these keys."""
        e = expression
        if e.unchanged:
            return contents[0]
        stream, count = e.stream, len(contents)
        case = id(e.arguments), e.shape, e.dtype, count, e.method, e.version, e.base, stream is None
        encoding = self._encodings.get(case)
        if encoding is None:
            encoding = open_encoding(_beginning(e), _contents(count))
            self._encodings[case] = encoding
        rest = b"" if stream is None else encode_field("stream", stream)
        return filled_digest(encoding, contents, rest)


def tensor_keys(expressions: Mapping[str, Expression]) -> dict[str, str]:
    """The key of every expression."""
    keys = TensorKeys()
    return {
        name: keys.key(e, tuple([operand.key for operand in e.operands]))
        for name, e in expressions.items()
    }


@lru_cache(maxsize=1 << 8)
def _contents(count: int) -> tuple[str, ...]:
    return tuple(_label("content", index) for index in range(count))


def _beginning(expression: Expression) -> bytes:
    """What `tensor_key` digests, as far as the shape reaches."""
    form, own = _form_and_own(expression)
    first = [("form", _form_digest(form)), own[0]]
    return encode_beginning("tensor", 1 + len(own), first)


FormField: TypeAlias = tuple[str, int | None, type, FieldValue]


def tensor_key(expression: Expression) -> str:
    """The tensor's key, 32 hexadecimal digits; an unchanged tensor keeps its operand's."""
    if expression.unchanged:
        return expression.operands[0].key
    form, own = _form_and_own(expression)
    return fields_digest("tensor", [("form", _form_digest(form)), *own])


def _form_and_own(
    expression: Expression,
) -> tuple[tuple[FormField, ...], list[tuple[str, FieldValue]]]:
    form: list[FormField] = []
    own: list[tuple[str, FieldValue]] = []
    for one in fields(expression):
        if one.own:
            own.append((_label(one.name, one.subject), one.value))
        else:
            form.append((one.name, one.subject, type(one.value), one.value))
    return tuple(form), own


@lru_cache(maxsize=1 << 12)
def _form_digest(form: tuple[FormField, ...]) -> str:
    """The digest of a form. The types keep apart what Python calls equal: 1, 1.0 and True."""
    return fields_digest(
        "form", ((_label(name, subject), value) for name, subject, _, value in form)
    )


@lru_cache(maxsize=1 << 12)
def _label(name: str, subject: int | None) -> str:
    return name if subject is None else f"{name}[{subject}]"
