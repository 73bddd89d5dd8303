"""A plan: for every node what it puts out, its state and why, and what will be done.

Pure values. `plan` shows them and `build` carries them out: a dry run cannot disagree with a run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from mergebuild.cache import Cache, CachedTensor, Manifest
from mergebuild.checkpoint.adapter import CONFIG as ADAPTER_CONFIG
from mergebuild.checkpoint.contents import Contents
from mergebuild.checkpoint.hub import Snapshot
from mergebuild.checkpoint.lora import Derived
from mergebuild.checkpoint.safetensors import INDEX, ShardPlan
from mergebuild.checkpoint.side_files import CONFIG
from mergebuild.checkpoint.source import Checkpoint
from mergebuild.expression import Expression
from mergebuild.plan.outline import Outline
from mergebuild.recipe import ModelRef, Node, Recipe, Source
from mergebuild.recipe.spelling import from_root
from mergebuild.remote import Remotes, RemoteTensor
from mergebuild.vocabulary.rows import RowTable


@dataclass(frozen=True, slots=True)
class Settings:
    """How to build, none of which changes what is built but the split into files, nor any key.

    `jobs` threads (0: as many as there are cores), `chunk` elements evaluated at a time (a
    multiple of 65,536; 0: what suits the device), `shard_size` bytes that a file of weights holds
    at the most, `device` to compute on: `cpu`, `cuda` or `cuda:N`. `offline` makes no request,
    whatever the environment says.
    """

    jobs: int = 0
    chunk: int = 0
    shard_size: int = 5_000_000_000
    device: str = "cpu"
    offline: bool = False

    @property
    def threads(self) -> int:
        return self.jobs or len(os.sched_getaffinity(0))

    @property
    def elements(self) -> int:
        """How many are evaluated at a time: what fits a cache, or a copy to a GPU that takes
        longer than asking for it."""
        return self.chunk or (1 << 19 if self.device == "cpu" else 1 << 21)


State: TypeAlias = Literal["fresh", "stale", "partly stale"]


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that a source is read from: a model, or a LoRA (`adapter`).

    `source` says it alone, `contents` are its own files, `keys` those of its tensors by name.
    """

    source: Source
    adapter: bool
    contents: Checkpoint
    snapshot: Snapshot | None
    keys: Mapping[str, str]

    @property
    def reference(self) -> str:
        """How the recipe refers to it on any machine: `place[@revision]`, a LoRA after a `+`."""
        return part_reference(self.source, self.adapter, local=self.snapshot is None)

    @property
    def directory(self) -> Path:
        """The folder in which its files are."""
        return self.contents.files[0].parent

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that it is read from, but the card, sorted by name."""
        named = [self.directory / name for name in (CONFIG, ADAPTER_CONFIG, INDEX)]
        used = (self.contents.config_text is not None, self.adapter, len(self.contents.files) > 1)
        more = [path for path, use in zip(named, used, strict=True) if use and path.is_file()]
        side = [file.path for file in self.contents.side_files]
        return tuple(sorted({*self.contents.files, *more, *side}))


def part_reference(source: Source, adapter: bool, *, local: bool = False) -> str:
    """`Part.reference` of a source, without regard to a LoRA on it. Only a `local` one can be
    relative to the recipe that it was included with."""
    place, revision = source.place, source.revision
    if source.written is not None:
        place, revision = source.written, source.written_revision
    elif source.within and not place.startswith(("/", "~")):
        place = from_root(source.within, f"./{place}" if local else place)
    if place.startswith(("/", "~")) and source.alias:
        place = source.alias
    return ("+" if adapter else "") + (f"{place}@{revision}" if revision else place)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A source that was opened: its header, and its outline with the keys of its content.

    `derived` are the tensors that lie in no file of `checkpoint`, but follow from some. `paths`
    are all folders and files that it reads from, `snapshots` those of them that are the Hub's,
    `parts` the model and the LoRA, if there is one.
    """

    source: Source
    checkpoint: Checkpoint
    outline: Outline
    derived: Mapping[str, Derived] = field(default_factory=dict)
    paths: tuple[Path, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a node is stale: `text`, and the tensors that it concerns (none: the whole node)."""

    text: str
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """Where a node is published, and whether what is there already is it."""

    path: Path
    fresh: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node.

    `compute` are the tensors whose key is nowhere, `reuse` where others lie on this machine, and
    `fetch` on remotes; `linked` are whole shards that are in the cache as they are. `wanted` says
    whether this run builds it, `stored` whether it becomes a checkpoint in the cache or exists in
    flight only.
    `models` maps how operands call a model to the model, `tables` the digests in views to the
    row tables.
    """

    node: Node
    outline: Outline
    expressions: Mapping[str, Expression]
    models: Mapping[str, ModelRef]
    tables: Mapping[str, RowTable]
    key: str
    state: State
    reasons: tuple[Reason, ...]
    wanted: bool
    stored: bool
    cached: Manifest | None
    compute: frozenset[str]
    reuse: Mapping[str, CachedTensor]
    linked: Mapping[str, Path]
    shards: tuple[ShardPlan, ...]
    output: OutputPlan | None
    notes: tuple[str, ...]
    fetch: Mapping[str, RemoteTensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Costs:
    """Bytes: `read` from sources and cache, `fetched` from remotes, `written` to the cache, `disk`
    that must be free, `memory` that the run will take at its peak (an estimate); `reads` is what
    each node that is built reads."""

    read: int
    written: int
    disk: int
    memory: int
    fetched: int = 0
    reads: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """All nodes that were selected and all that they are made from, every node after its inputs.

    Of a `provisional` plan some keys stand for those that follow from what nobody has read;
    `contents` are the digests that were found meanwhile.
    """

    recipe: Recipe
    cache: Cache
    nodes: Mapping[str, NodePlan]
    leaves: Mapping[Source, Leaf]
    targets: tuple[str, ...]
    settings: Settings
    costs: Costs
    remotes: Remotes = field(default_factory=Remotes)
    contents: Contents | None = None

    @property
    def provisional(self) -> bool:
        return any(leaf.outline.provisional for leaf in self.leaves.values())

    @property
    def fresh(self) -> bool:
        """Whether there is nothing to do."""
        return not any(
            node.wanted or (node.output is not None and not node.output.fresh)
            for node in self.nodes.values()
        )
