"""What happens during a plan or a build, as values.

Deciding and building code emits these; the rich console, the plain console, `--json` and the run
log are sinks. Knows nothing of how they are shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

How: TypeAlias = Literal["computed", "copied", "linked", "fetched", "resumed"]
"""How a tensor of a new checkpoint came to be."""


@dataclass(frozen=True, slots=True)
class Digesting:
    """A source that was not seen before, or has changed, is about to be read whole."""

    source: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Digested:
    """So many more bytes of sources, or of what is verified, are digested."""

    bytes: int


@dataclass(frozen=True, slots=True)
class Hashing:
    """The files of a source, or a built node, are about to be read for their SHA-256."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Hashed:
    """So many more bytes are hashed."""

    bytes: int


@dataclass(frozen=True, slots=True)
class Fetching:
    """So many files of a commit on the Hub are about to be downloaded."""

    repo: str
    commit: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """So many more bytes are downloaded; fewer than none where a download had to begin anew."""

    bytes: int


@dataclass(frozen=True, slots=True)
class Uploading:
    """So many files are about to be published on the Hub, as far as it lacks them."""

    repo: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Uploaded:
    """So many more bytes are on the Hub."""

    bytes: int


@dataclass(frozen=True, slots=True)
class Transferring:
    """So many files of a checkpoint are about to be sent to a remote, or to come from it."""

    what: Literal["push", "pull"]
    remote: str
    checkpoint: str
    node: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Transferred:
    """So many more bytes of it are there; fewer than none where something had to begin anew."""

    bytes: int


@dataclass(frozen=True, slots=True)
class Shared:
    """What became of a checkpoint that was to be pushed or pulled."""

    what: Literal["push", "pull"]
    remote: str
    checkpoint: str
    node: str
    how: Literal["done", "already there", "failed"]
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Work:
    """What a build is about to do for one node: `bytes` is the size of its tensors, `read` what
    comes from sources and cache, `fetched` from remotes, `written` what goes to the cache."""

    node: str
    tensors: int
    bytes: int
    read: int
    written: int
    fetched: int = 0


@dataclass(frozen=True, slots=True)
class BuildStarted:
    run: str
    work: tuple[Work, ...]
    fresh: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeStarted:
    node: str


@dataclass(frozen=True, slots=True)
class TensorDone:
    node: str
    tensor: str
    how: How
    bytes: int


@dataclass(frozen=True, slots=True)
class NodeBuilt:
    """The checkpoint `key` is complete and in the cache; one in flight only has been used up."""

    node: str
    key: str
    seconds: float


@dataclass(frozen=True, slots=True)
class OutputPublished:
    node: str
    path: str
    how: Literal["reflinked", "linked", "copied"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Another build, process `pid` on `host`, is making what this one wants: it is waited for."""

    host: str
    pid: int
    checkpoints: int


@dataclass(frozen=True, slots=True)
class Verifying:
    """A built checkpoint, `name`, is about to be read whole and compared with its manifest."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Verified:
    """What of a built checkpoint is not what was written; nothing if it is sound."""

    name: str
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Warned:
    """Something the user should know; `text` is complete, with its place."""

    text: str


@dataclass(frozen=True, slots=True)
class BuildFinished:
    """The last event of every build. Counts are tensors, sizes bytes, times seconds."""

    run: str
    ok: bool
    seconds: float
    computed: int
    copied: int
    linked: int
    resumed: int
    written: int
    built: tuple[str, ...]
    published: tuple[str, ...]
    fetched: int = 0
    error: str | None = None


Event: TypeAlias = (
    Digesting
    | Digested
    | Hashing
    | Hashed
    | Fetching
    | Fetched
    | Uploading
    | Uploaded
    | Transferring
    | Transferred
    | Shared
    | BuildStarted
    | NodeStarted
    | TensorDone
    | NodeBuilt
    | OutputPublished
    | Waiting
    | Verifying
    | Verified
    | Warned
    | BuildFinished
)
Sink: TypeAlias = Callable[[Event], None]


def silent(event: Event) -> None:
    """The sink that drops everything."""


def to_json(event: Event) -> dict[str, Any]:
    """The event as a JSON object; `event` names its type."""
    return {"event": type(event).__name__, **asdict(event)}
