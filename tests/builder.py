"""Building in this process: what a build did, as a list of (node, tensor, how)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mergebuild as mb
from mergebuild.events import Event, TensorDone
from tests import kit

Done = tuple[str, str, str]


@dataclass(slots=True)
class Scratch:
    """A working directory with a recipe, sources and a cache."""

    root: Path
    recipe: str = "recipe.yaml"
    sources: dict[str, str] = field(default_factory=dict)

    def write(self, text: str) -> None:
        kit.write_recipe(self.root / self.recipe, text)

    def plan(self, **more: object) -> mb.Plan:
        return mb.plan(
            self.root / self.recipe,
            sources=self.sources,
            cache=self.root / "cache",
            outputs=self.outputs(),
            **more,  # type: ignore[arg-type]
        )

    def outputs(self) -> Mapping[str, Path]:
        loaded = mb.load(
            self.root / self.recipe, sources=self.sources, cache=self.root / "cache", offline=False
        )
        return {name: self.root / "build" / name for name in loaded.outputs}

    def build(self, **more: object) -> list[Done]:
        """Everything that was computed, copied or linked, sorted. As with the command, sources that
        nobody has read are read by the build."""
        done: list[Done] = []

        def sink(event: Event) -> None:
            if isinstance(event, TensorDone):
                done.append((event.node, event.tensor, event.how))

        mb.build(self.plan(**{"provisional": True, **more}), sink=sink)
        return sorted(done)

    def output(self, name: str) -> Path:
        return self.root / "build" / name


def computed(done: list[Done]) -> list[tuple[str, str]]:
    """The (node, tensor) that were computed."""
    return [(node, tensor) for node, tensor, how in done if how == "computed"]


@contextmanager
def edited(scratch: Scratch, old: str, new: str) -> Iterator[None]:
    """The recipe with one piece of text replaced, for a while."""
    path = scratch.root / scratch.recipe
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
    path.write_text(text.replace(old, new))
    yield
    path.write_text(text)
