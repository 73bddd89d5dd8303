"""What the outside says over a recipe: variables, places of sources, mirrors of this site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Overrides:
    """`variables` and `sources` are the command line's and must fit the recipe; `mirrors` are the
    site's: they give way to `sources` and need not fit."""

    variables: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    mirrors: Mapping[str, str] = field(default_factory=dict)
