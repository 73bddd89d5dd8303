"""Merge methods of other packages: entry points of the group `mergebuild.methods`.

An entry point names a method and says where it is: a function over whole tensors, or a `Method`
made with `declare.method`. Entry points are looked up when a name is not one of the built-in
methods, or when all methods are listed, and loaded then; so a build without them pays nothing.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

from mergebuild.errors import BuildError, Problem
from mergebuild.kernels.operations import Steps
from mergebuild.kernels.places import WholeTensors
from mergebuild.methods.declaration import Arguments, Method, Operands, Parameter, Scope
from mergebuild.methods.declare import at_once, given_to, parameter_of, per_delta, per_input, shared

GROUP: Final = "mergebuild.methods"


@dataclass(frozen=True, slots=True)
class Candidate:
    """What some package offers under a name, not loaded yet."""

    name: str
    package: str
    release: str
    load: Callable[[], Any]

    def method(self) -> Method | Problem:
        """The method, or why there is none."""
        try:
            found = self.load()
            made = found if isinstance(found, Method) else whole_method(self.name, found)
        except (Exception, SystemExit) as error:  # whatever another's code may do
            return self.problem(f"cannot be used: {type(error).__name__}: {error}")
        version = keyed(made.version, self.package, self.release)
        package = f"{self.package} {self.release}"
        return replace(made, name=self.name, version=version, package=package)

    def problem(self, what: str) -> Problem:
        hint = f"update or remove the package '{self.package}'"
        return Problem(f"method '{self.name}' of {self.package} {self.release} {what}", None, hint)


def candidates() -> list[Candidate]:
    """All that installed packages offer, by name, then by package; loads nothing."""
    from importlib.metadata import entry_points

    found = [
        Candidate(
            point.name,
            point.dist.name if point.dist else "an unknown package",
            point.dist.version if point.dist else "?",
            point.load,
        )
        for point in entry_points(group=GROUP)
    ]
    return sorted(found, key=lambda one: (one.name, one.package))


def keyed(version: int, package: str, release: str) -> int:
    """A version that is another one for every release, so that none is taken for another."""
    text = f"{version}\0{package}\0{release}".encode()
    return int.from_bytes(blake2b(text, digest_size=6).digest())


def whole_method(name: str, function: Any) -> Method:
    """A method from a function of whole tensors.

        def my_merge(tensors, base, *, weight: tuple[float, ...], strength: float = 1.0): ...

    Keyword-only arguments are the parameters: a plain type is a shared one, `tuple[...]` has one
    value per input but the base, `Annotated` with a marker of `declare` says more. `base` may be
    left out, and is optional where its annotation allows None. Raises TypeError for anything else.
    """
    if not callable(function):
        raise TypeError(f"{type(function).__name__} is no function")
    signature = inspect.signature(function)
    positional = [p for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY]
    if [p.name for p in positional] not in (["tensors"], ["tensors", "base"]):
        raise TypeError("a merge method takes (tensors) or (tensors, base), then keywords")
    has_base = len(positional) == 2
    optional = has_base and (
        "None" in str(positional[1].annotation) or "Optional" in str(positional[1].annotation)
    )
    keywords = [p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    hints = _hints(function, [p.name for p in keywords])
    names = {p.name: p.name.rstrip("_") for p in keywords}
    parameters = {
        names[p.name]: _parameter(names[p.name], hints[p.name], p.default, has_base)
        for p in sorted(keywords, key=lambda p: names[p.name])
    }
    paragraphs = (inspect.getdoc(function) or "").split("\n\n")

    def run(operands: Operands, arguments: Arguments) -> Steps:
        given = given_to(names, parameters, operands, arguments)

        def merge(tensors: Sequence[Any]) -> Any:
            parts = (tensors[1:], tensors[0]) if operands.base else (tensors, None)
            return _checked(
                name, tensors[0].shape, lambda: function(*parts[: 1 + has_base], **given)
            )

        return at_once(WholeTensors(merge))

    return Method(
        name=name,
        version=int(getattr(function, "version", 1)),
        summary=" ".join(paragraphs[0].split()) or f"{name}.",
        equation=inspect.cleandoc(paragraphs[1]) if len(paragraphs) > 1 else "",
        notes=" ".join(" ".join(paragraphs[2:]).split()),
        base="optional" if optional else "required" if has_base else "ignored",
        inputs=(1, None),
        parameters=types.MappingProxyType(parameters),
        missing="single",
        run=run,
        whole=True,
        held=_whole_tensors,
    )


def _whole_tensors(operands: Operands) -> int:
    """Operands and result, stored in 16 bits and in float32, and as much for what is made of
    them on the way."""
    return 12 * (operands.count + 1) * operands.elements


def _hints(function: Any, names: list[str]) -> dict[str, Any]:
    """Evaluated annotations of the parameters alone: those of tensors may not exist at run time."""
    said = {
        name: function.__annotations__[name] for name in names if name in function.__annotations__
    }
    if missing := [name for name in names if name not in said]:
        raise TypeError(f"parameter '{missing[0]}' has no annotation")
    stub = types.SimpleNamespace(__annotations__=said)
    return get_type_hints(stub, globalns=getattr(function, "__globals__", {}), include_extras=True)


def _parameter(name: str, hint: Any, default: Any, has_base: bool) -> Parameter:
    if get_origin(hint) is not Annotated:
        scoped = per_delta if has_base else per_input
        marker = scoped if get_origin(hint) is tuple else shared
        hint = Annotated[hint, marker("")]
    made = parameter_of(name, hint)
    if default is inspect.Parameter.empty:
        return made
    if isinstance(default, tuple):
        raise TypeError(f"parameter '{name}': the default is that of one input, not a tuple")
    if made.scope is not Scope.SHARED and get_args(hint)[0] is tuple:
        raise TypeError(f"parameter '{name}': write tuple[float, ...]")
    return replace(made, default=default)


def _checked(name: str, shape: Any, compute: Callable[[], Any]) -> Any:
    """The function's tensor, if it is one of that shape. Raises BuildError."""
    import torch

    try:
        made = compute()
    except Exception as error:
        raise BuildError.of(f"method '{name}' failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, torch.Tensor):
        raise BuildError.of(f"method '{name}' returned {type(made).__name__}, not a tensor")
    if made.shape != shape:
        raise BuildError.of(
            f"method '{name}' returned a tensor of shape {list(made.shape)} for {list(shape)}"
        )
    return made
