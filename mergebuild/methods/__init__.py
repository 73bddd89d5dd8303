"""The merge methods: one family a file, all of them declared by their signatures.

Importing this package, or the registry, imports neither torch nor numpy: plans need declarations
only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Final

from mergebuild.errors import Problem, UsageError
from mergebuild.methods.declaration import Method

if TYPE_CHECKING:
    from mergebuild.methods.plugins import Candidate

FAMILIES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "Averages": {
        "linear": ("linear", "passthrough"),
        "slerp": ("slerp", "nuslerp"),
        "sphere": ("multislerp", "karcher"),
        "stock": ("model_stock",),
    },
    "Task vectors": {
        "task_vectors": ("task_arithmetic", "ties", "dare_linear", "dare_ties"),
        "breadcrumbs": ("breadcrumbs", "breadcrumbs_ties"),
        "della": ("della", "della_linear"),
        "sce": ("sce",),
        "ram": ("ram", "ramplus_tl"),
        "competition": ("consensus_ta", "pcb_merging"),
    },
    "Two models": {"fusion": ("arcee_fusion", "nearswap")},
    "Whole matrices": {"spectral": ("tsv_merge", "iso_c")},
}
"""The modules of the built-in methods and the methods of each, under the headings that lists show
them with."""

_MODULES: Final = {
    name: module
    for modules in FAMILIES.values()
    for module, names in modules.items()
    for name in names
}


class BuiltIn(Mapping[str, Method]):
    """The methods of this package by name, in the order of their names; a module is imported when
    one of its methods is asked for."""

    def __getitem__(self, name: str) -> Method:
        return _declared(_MODULES[name])[name]

    def __contains__(self, name: object) -> bool:
        return name in _MODULES

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(_MODULES))

    def __len__(self) -> int:
        return len(_MODULES)


@cache
def _declared(module: str) -> Mapping[str, Method]:
    """The methods that a module of this package declares."""
    found = vars(import_module(f"{__name__}.{module}")).values()
    return {method.name: method for method in found if isinstance(method, Method)}


class Registry(Mapping[str, Method]):
    """All merge methods by name; iterates in the order of their names.

    Methods of other packages are looked up when a name is not built in, and all of them when the
    registry is iterated. One that cannot be used is left out there, and raises UsageError when it
    is asked for by name.
    """

    def __init__(self) -> None:
        self.built_in = BuiltIn()

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
    return Registry()


def family_of(method: Method) -> str:
    """The heading that a method stands under."""
    if method.package is not None:
        return f"From {method.package}"
    module = _MODULES[method.name]
    return next(family for family, modules in FAMILIES.items() if module in modules)


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
