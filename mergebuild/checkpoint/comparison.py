"""How two checkpoints differ as far as headers and configs tell. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mergebuild.checkpoint.summary import Shaped
from mergebuild.checkpoint.wrappers import rename


@dataclass(frozen=True, slots=True)
class Pair:
    """A tensor that both have, under its name in each."""

    one: str
    other: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two checkpoints: tensors that `only` one has, `pairs` that both have, and of these (name,
    there, here) where `shapes` or `dtypes` differ. `config` has (key, there, here) with dots for
    nesting, None where a key is missing, and nothing where one has no config. `rules` are how names
    had to be changed to match."""

    rules: tuple[tuple[str, str, int], ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]
    pairs: tuple[Pair, ...]
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    dtypes: tuple[tuple[str, str, str], ...]
    config: tuple[tuple[str, Any, Any], ...]


def compare(
    one: Mapping[str, Shaped],
    other: Mapping[str, Shaped],
    one_config: Mapping[str, Any] | None,
    other_config: Mapping[str, Any] | None,
) -> Comparison:
    """Names are those of `one`; those of `other` may begin differently."""
    kinds = [str((config or {}).get("model_type", "")) for config in (one_config, other_config)]
    renaming = rename(other, one, kinds)
    names = dict(renaming.names) if renaming is not None else {name: name for name in other}
    here = {name: own for own, name in names.items()}
    pairs = tuple(Pair(name, here[name]) for name in sorted(one) if name in here)
    shapes = tuple(
        (p.one, one[p.one].shape, other[p.other].shape)
        for p in pairs
        if one[p.one].shape != other[p.other].shape
    )
    dtypes = tuple(
        (p.one, one[p.one].dtype, other[p.other].dtype)
        for p in pairs
        if one[p.one].dtype != other[p.other].dtype
    )
    return Comparison(
        rules=renaming.rules if renaming is not None else (),
        only=(
            tuple(sorted(one.keys() - here)),
            tuple(sorted(own for name, own in here.items() if name not in one)),
        ),
        pairs=pairs,
        shapes=shapes,
        dtypes=dtypes,
        config=tuple(_keys(one_config, other_config) if one_config and other_config else ()),
    )


def pattern(name: str) -> str:
    """A name with a star for every number in it, so that layers and experts fall together."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    left, right = _flat(one), _flat(other)
    return [
        (key, left.get(key), right.get(key))
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]


def _flat(config: Mapping[str, Any], before: str = "", depth: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value and depth < 20:
            found |= _flat(value, f"{before}{key}.", depth + 1)
        else:
            found[f"{before}{key}"] = value
    return found
