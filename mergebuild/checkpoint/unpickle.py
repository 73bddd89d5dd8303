"""A pickle read as data: containers, numbers, text, and tensors described but not made.

Runs no code whatever the pickle says: there is no import, no call and no attribute, just a table
of the names that PyTorch's state dicts are made of, each with a stand-in of its own. Anything else
is a CheckpointError that names it. The pickle is untrusted, so its size and what it may make of
itself have limits. Knows no files but by their name for messages.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from mergebuild.checkpoint.standins import Global, Refused, named, reduced, storage
from mergebuild.errors import CheckpointError

LARGEST: Final = 1 << 25
"""Bytes that a pickle may have."""
MOST_OBJECTS: Final = 2_000_000
"""Containers and tensors that a pickle may make."""

_LONGEST_LINE: Final = 512
_STOP: Final = ord(".")

_UNSAFE: Final = (
    "only plain state dicts are read, and no code is ever run; convert it to safetensors where "
    "you trust it"
)


_MARK: Final = object()


def unpickle(data: bytes, path: Path) -> Any:
    """What a pickle holds, from dict, list, tuple, str, bytes, numbers, None and Strided.

    Raises CheckpointError for anything else.
    """
    if len(data) > LARGEST:
        raise CheckpointError.of(
            f"'{path}': a pickle of {len(data)} bytes, more than {LARGEST} allowed"
        )
    try:
        return _Machine(data).run()
    except Refused as error:
        raise CheckpointError.of(f"'{path}': {error}", hint=_UNSAFE) from error
    except (IndexError, struct.error, UnicodeDecodeError, _Short) as error:
        raise CheckpointError.of(
            f"'{path}': its pickle is damaged", hint="fetch the file again"
        ) from error


class _Short(Exception):
    """The stack or the data holds less than an opcode takes."""


class _Machine:
    """One run over a pickle; `_stack` holds values and marks."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._made = 0

    def run(self) -> Any:
        data, opcodes = self._data, _OPCODES
        while True:
            code = data[self._at]
            self._at += 1
            if code == _STOP:
                break
            opcode = opcodes.get(code)
            if opcode is None:
                raise Refused(f"its pickle holds opcode 0x{code:02x}, which no state dict needs")
            opcode(self)
        return self.pop()

    # What opcodes are made of.

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise _Short
        part = self._data[self._at : end]
        self._at = end
        return part

    def number(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def line(self) -> str:
        end = self._data.find(b"\n", self._at, self._at + _LONGEST_LINE)
        if end < 0:
            raise _Short
        return self.take(end + 1 - self._at)[:-1].decode()

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def make(self, value: Any) -> None:
        self._made += 1
        if self._made > MOST_OBJECTS:
            raise Refused(f"its pickle makes more than {MOST_OBJECTS:,} objects")
        self._stack.append(value)

    def pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise _Short
        return value

    def top(self) -> Any:
        return self._stack[-1]

    def marked(self) -> list[Any]:
        """Pop everything down to the last mark."""
        for at in range(len(self._stack) - 1, -1, -1):
            if self._stack[at] is _MARK:
                found = self._stack[at + 1 :]
                del self._stack[at:]
                return found
        raise _Short

    # Opcodes with a body of their own.

    def put(self, index: int) -> None:
        self._memo[index] = self.top()
        if len(self._memo) > 2 * MOST_OBJECTS:
            raise Refused(f"its pickle makes more than {MOST_OBJECTS:,} objects")

    def memoize(self) -> None:
        self.put(len(self._memo))

    def get(self, index: int) -> None:
        if index not in self._memo:
            raise _Short
        self._stack.append(self._memo[index])

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not dict or len(items) % 2:
            raise _Short
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other keys may be nested too deeply to hash, or be made to collide.
            if type(key) is not str and not (type(key) is int and abs(key) < 1 << 31):
                raise Refused(f"a dict in its pickle has a key of type {type(key).__name__}")
            target[key] = value

    def append(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise _Short
        target.extend(items)

    def named(self, module: str, name: str) -> None:
        self.push(named(module, name))

    def stack_named(self) -> None:
        name, module = self.pop(), self.pop()
        if type(name) is not str or type(module) is not str:
            raise _Short
        self.named(module, name)

    def persistent(self) -> None:
        self.make(storage(self.pop()))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if type(function) is not Global or type(arguments) is not tuple:
            raise _Short
        self.make(reduced(function, arguments))

    def build(self) -> None:
        # Attributes of an OrderedDict: the versions of modules, which nobody needs here.
        state, target = self.pop(), self.top()
        if type(target) is not dict or type(state) is not dict:
            raise Refused("its pickle sets the state of an object")


def _long(machine: _Machine) -> None:
    machine.push(int.from_bytes(machine.take(machine.number("<B")), "little", signed=True))


def _tuple(machine: _Machine, count: int) -> None:
    items = [machine.pop() for _ in range(count)]
    machine.make(tuple(reversed(items)))


def _text(machine: _Machine, form: str) -> None:
    machine.push(machine.take(machine.number(form)).decode("utf-8", "surrogatepass"))


def _item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


_OPCODES: Final[Mapping[int, Callable[[_Machine], None]]] = {
    0x80: lambda m: _protocol(m.number("<B")),
    0x95: lambda m: _ignore(m.take(8)),  # FRAME
    ord("("): lambda m: m.push(_MARK),
    ord("0"): lambda m: _ignore(m.pop()),
    ord("}"): lambda m: m.make({}),
    ord("]"): lambda m: m.make([]),
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.make(tuple(m.marked())),
    0x85: lambda m: _tuple(m, 1),
    0x86: lambda m: _tuple(m, 2),
    0x87: lambda m: _tuple(m, 3),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.marked()),
    ord("s"): _item,
    ord("u"): lambda m: m.set_items(m.marked()),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("J"): lambda m: m.push(m.number("<i")),
    ord("K"): lambda m: m.push(m.number("<B")),
    ord("M"): lambda m: m.push(m.number("<H")),
    0x8A: _long,
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    ord("X"): lambda m: _text(m, "<I"),
    0x8C: lambda m: _text(m, "<B"),
    ord("B"): lambda m: m.push(m.take(m.number("<I"))),
    ord("C"): lambda m: m.push(m.take(m.number("<B"))),
    ord("q"): lambda m: m.put(m.number("<B")),
    ord("r"): lambda m: m.put(m.number("<I")),
    0x94: lambda m: m.memoize(),
    ord("h"): lambda m: m.get(m.number("<B")),
    ord("j"): lambda m: m.get(m.number("<I")),
    ord("c"): lambda m: m.named(m.line(), m.line()),
    0x93: lambda m: m.stack_named(),
    ord("Q"): lambda m: m.persistent(),
    ord("R"): lambda m: m.reduce(),
    ord("b"): lambda m: m.build(),
}


def _ignore(_: object) -> None:
    pass


def _protocol(version: int) -> None:
    if version not in (2, 3, 4, 5):
        raise Refused(f"its pickle is of protocol {version}")
