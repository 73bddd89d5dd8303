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

    def below(self, namespace: str) -> Overrides:
        """What they say over a recipe included under a namespace: of its own names by `name.…`,
        of models as they are written also without."""
        written = {name: place for name, place in self.sources.items() if "/" in name}
        return Overrides(
            _below(namespace, self.variables),
            {**written, **_below(namespace, self.sources)},
            {**self.mirrors, **_below(namespace, self.mirrors)},
        )


def _below(namespace: str, said: Mapping[str, str]) -> dict[str, str]:
    start = f"{namespace}."
    return {name.removeprefix(start): said[name] for name in said if name.startswith(start)}
