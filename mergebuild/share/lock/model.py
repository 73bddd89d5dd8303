"""What a lock says, as values. Nothing here is of this machine: no path, no time, no setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mergebuild.checkpoint.hashes import FileHash
from mergebuild.errors import Location
from mergebuild.recipe import Pin


@dataclass(frozen=True, slots=True)
class LockedInclude:
    """A recipe that is included: as it is named, the commit that this meant (None for a file of
    this project), and the SHA-256 of its text."""

    recipe: str
    commit: str | None
    sha256: str
    at: Location | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class LockedSource:
    """A source, or the LoRA of one.

    `commit` is what its revision meant on the Hub, `files` are all that it is read from, but the
    card, whose word on the `license` is kept. `content` is the digest of all tensors' keys,
    `tensors` those of each layer and of what is in none, by the beginning of their names.
    """

    commit: str | None
    license: str | None
    files: Mapping[str, FileHash]
    content: str
    tensors: Mapping[str, str]
    at: Location | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class LockedOutput:
    """What a node's tensors and side files are, however they are split into files: `content` by
    XXH3, which a build has at hand, and `sha256`, which resists forgery."""

    content: str
    sha256: str


@dataclass(frozen=True, slots=True)
class LockedNode:
    """A node: its checkpoint key, the methods of its tensors with their versions, and what it was
    once it was built."""

    key: str
    methods: Mapping[str, int]
    output: LockedOutput | None = None
    at: Location | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Lock:
    """All of it, by the names of includes, sources and nodes. `file` is for messages."""

    includes: Mapping[str, LockedInclude] = field(default_factory=dict)
    sources: Mapping[str, LockedSource] = field(default_factory=dict)
    nodes: Mapping[str, LockedNode] = field(default_factory=dict)
    file: str = field(default="", compare=False)

    @property
    def pins(self) -> dict[str, Pin]:
        """What it says of sources on the Hub."""
        return {
            name: Pin(source.commit, {file: one.size for file, one in source.files.items()})
            for name, source in self.sources.items()
            if source.commit is not None
        }

    @property
    def commits(self) -> dict[str, str]:
        """What it says that references to recipes mean."""
        known = self.includes.values()
        return {one.recipe: one.commit for one in known if one.commit is not None}
