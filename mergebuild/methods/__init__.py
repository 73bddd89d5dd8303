"""The merge methods: one family a file, all of them declared by their signatures.

Importing this package, or the registry, imports neither torch nor numpy: plans need declarations
only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from mergebuild.errors import Problem, UsageError
from mergebuild.methods.declaration import Method

if TYPE_CHECKING:
    from mergebuild.methods.plugins import Candidate

FAMILIES: Final = {
    "Averages": ("linear", "slerp", "sphere", "stock"),
    "Task vectors": ("task_vectors", "breadcrumbs", "della", "sce", "ram", "competition"),
    "Two models": ("fusion",),
    "Whole matrices": ("spectral",),
}
"""The modules of the built-in methods, under the headings that lists show them with."""


class Registry(Mapping[str, Method]):
    """All merge methods by name; iterates in the order of their names.

    Methods of other packages are looked up when a name is not built in, and all of them when the
    registry is iterated. One that cannot be used is left out there, and raises UsageError when it
    is asked for by name.
    """

    def __init__(self, built_in: Mapping[str, Method]) -> None:
        self.built_in = MappingProxyType(dict(sorted(built_in.items())))

    def __getitem__(self, name: str) -> Method:
        if name in self.built_in:
            return self.built_in[name]
        found = _loaded(name)
        if isinstance(found, Problem):
            raise UsageError(found)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in _offered()

    def __iter__(self) -> Iterator[str]:
        others = (name for name in _offered() if isinstance(_loaded(name), Method))
        return iter(sorted({*self.built_in, *others}))

    def __len__(self) -> int:
        return len(list(iter(self)))

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Why some methods of other packages are left out."""
        clash = "has the name of a built-in method, which is used"
        found = (
            _offered()[name][0].problem(clash) if name in self.built_in else _loaded(name)
            for name in _offered()
        )
        return tuple(one for one in found if isinstance(one, Problem))


@cache
def registry() -> Registry:
    """All merge methods."""
    found: dict[str, Method] = {}
    for module in (module for family in FAMILIES.values() for module in family):
        for method in vars(import_module(f"{__name__}.{module}")).values():
            if isinstance(method, Method):
                if method.name in found:
                    raise ValueError(f"two merge methods are called '{method.name}'")
                found[method.name] = method
    return Registry(found)


def family_of(method: Method) -> str:
    """The heading that a method stands under."""
    for family, modules in FAMILIES.items():
        for module in modules:
            if method in vars(import_module(f"{__name__}.{module}")).values():
                return family
    return f"From {method.package}"


@cache
def _offered() -> Mapping[str, tuple[Candidate, ...]]:
    """What other packages offer under each name."""
    from mergebuild.methods.plugins import candidates

    found: dict[str, tuple[Candidate, ...]] = {}
    for one in candidates():
        found[one.name] = (*found.get(one.name, ()), one)
    return found


@cache
def _loaded(name: str) -> Method | Problem:
    """The method of another package, or why there is none. Raises KeyError where none offers it."""
    first, *more = _offered()[name]
    if more:
        return first.problem(
            f"is one of {len(more) + 1} of that name: {more[0].package} has one too"
        )
    return first.method()
