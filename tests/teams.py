"""Two teams with the same recipe and sources, each with a folder and a cache of its own."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mergebuild as mb
from mergebuild.cache import Cache
from mergebuild.events import Event, Shared, Sink, TensorDone, Warned
from mergebuild.remote import Remotes
from mergebuild.remote.pull import pull
from mergebuild.remote.push import Pushing, push
from mergebuild.remote.signature import Signer
from mergebuild.site import Remote
from tests import kit
from tests.test_incremental import RECIPE, age


@dataclass(slots=True)
class Team:
    """A working directory; `events` are those of its last command."""

    root: Path
    remotes: Sequence[Remote] = ()
    events: list[Event] = field(default_factory=list)

    @property
    def cache(self) -> Cache:
        return Cache(self.root / "cache")

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    def plan(self) -> mb.Plan:
        self.events.clear()
        return mb.plan(
            self.recipe,
            cache=self.cache.root,
            outputs={"blend": self.root / "build/blend"},
            remotes=self.remotes,
            sink=self.events.append,
        )

    def build(self) -> dict[str, list[tuple[str, str]]]:
        """What was done, by how: (node, tensor), sorted."""
        mb.build(self.plan(), sink=self.events.append)
        done: dict[str, list[tuple[str, str]]] = {}
        for event in self.events:
            if isinstance(event, TensorDone):
                done.setdefault(event.how, []).append((event.node, event.tensor))
        return {how: sorted(tensors) for how, tensors in sorted(done.items())}

    def keys(self) -> dict[str, str]:
        return {name: node.key for name, node in self.plan().nodes.items()}

    def push(self, *nodes: str, signer: Signer | None = None, repair: bool = False) -> list[Shared]:
        keys = self.keys()
        self.events.clear()
        return [
            outcome
            for remote in self.remotes
            for outcome in push(
                self.cache,
                [keys[node] for node in nodes or keys],
                remote,
                Remotes(self.remotes).store(remote.name),
                Pushing(signer, repair),
                self.events.append,
            )
        ]

    def pull(self, key: str, sink: Sink | None = None) -> Shared:
        self.events.clear()
        sink = sink or self.events.append
        return pull(self.cache, key, Remotes(self.remotes, sink), run="r1", sink=sink)

    def edit(self, old: str, new: str) -> None:
        text = self.recipe.read_text()
        assert text.count(old) == 1
        self.recipe.write_text(text.replace(old, new))

    def warnings(self) -> list[str]:
        """Those about remotes."""
        return [e.text for e in self.events if isinstance(e, Warned) and "remote '" in e.text]

    def weights(self) -> bytes:
        return (self.root / "build/blend/model.safetensors").read_bytes()


def first_team(root: Path) -> Team:
    """One that has built its recipe."""
    kit.base_and_two(root, layers=3)
    age(root)
    kit.write_recipe(root / "recipe.yaml", RECIPE)
    team = Team(root)
    team.build()
    return team


def another(team: Team, root: Path, *remotes: Remote) -> Team:
    """A clone that has built nothing."""
    shutil.copytree(team.root, root, ignore=shutil.ignore_patterns("cache", "build"))
    age(root)
    return Team(root, remotes)


def tensors(team: Team) -> list[str]:
    return sorted(kit.read(team.root / "base"))
