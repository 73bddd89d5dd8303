"""Models on the Hugging Face Hub as folders: which revision is meant, which files it takes, and
whether they are there already.

Works in the Hub library's own cache, so that what another program fetched is not fetched again.
A snapshot whose commit is named and that is there whole costs no request and no import: what it has
to hold is remembered under `listings`, which may be deleted at any time. Knows no recipes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from mergebuild.checkpoint import adapter, hub_client
from mergebuild.checkpoint.hub_client import COMMIT, Listing
from mergebuild.checkpoint.regular import parse_object, read_small
from mergebuild.checkpoint.safetensors import INDEX, SINGLE
from mergebuild.checkpoint.shards import BIN, BIN_INDEX, SUFFIX, find_weights
from mergebuild.checkpoint.side_files import CONFIG, is_carried, is_code, read_config, runs_code
from mergebuild.errors import CheckpointError
from mergebuild.events import Fetched, Fetching, Sink, Warned
from mergebuild.files import write_file

Kind: TypeAlias = Literal["model", "adapter"]

_REPO: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_CARD: Final = "README.md"
_LISTING_LARGEST: Final = 32 << 20
_TRUE: Final = frozenset({"1", "ON", "YES", "TRUE"})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A commit of a repository in the library's cache, and what of it was fetched just now."""

    repo: str
    revision: str | None
    commit: str
    path: Path
    files: int = 0
    bytes: int = 0


def is_repo(place: str) -> bool:
    """Whether a place has the form of a name on the Hub, `org/name`."""
    return _REPO.fullmatch(place) is not None and "--" not in place and ".." not in place


def is_offline() -> bool:
    """Whether the environment forbids requests, by the library's own variables."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in _TRUE


def cache_folder() -> Path:
    """The library's cache, by its own variables."""
    for variable, below in (
        ("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
    ):  # fmt: skip
        if said := os.environ.get(variable):
            return Path(os.path.expandvars(said)).expanduser() / below
    return Path.home() / ".cache" / "huggingface" / "hub"


class Hub:
    """Snapshots for one plan: each revision is resolved once and stays what it was then."""

    def __init__(self, listings: Path, sink: Sink) -> None:
        self._listings = listings
        self._sink = sink
        self._cache = cache_folder()
        self._found: dict[tuple[str, str | None, Kind], Snapshot] = {}
        self._commits: dict[tuple[str, str | None], str] = {}

    def snapshot(self, repo: str, revision: str | None, kind: Kind) -> Snapshot:
        """A revision (None: the main branch) of a repository, with all files that a model or an
        adapter takes. Raises CheckpointError."""
        asked = repo, revision, kind
        if asked not in self._found:
            self._found[asked] = self._snapshot(repo, revision, kind)
        return self._found[asked]

    def _snapshot(self, repo: str, revision: str | None, kind: Kind) -> Snapshot:
        if is_offline():
            return self._offline(repo, revision, kind)
        commit = self._commits.get((repo, revision)) or _commit(revision)
        listing = self._remembered(repo, commit) if commit is not None else None
        if listing is None:
            listing = hub_client.list_files(repo, revision)
            self._remember(repo, listing)
        self._commits[repo, revision] = listing.commit
        folder = self._folder(repo, listing.commit)
        files = size = 0
        for choose in _STAGES[kind]:
            missing = [name for name in choose(folder, listing.files) if _lacks(folder, name)]
            if not missing:
                continue
            total = sum(listing.files[name] for name in missing)
            self._sink(Fetching(repo, listing.commit, len(missing), total))
            for name in missing:
                self._fetch(repo, listing, name)
            files, size = files + len(missing), size + total
        self._refer(repo, revision, listing.commit)
        return Snapshot(repo, revision, listing.commit, folder, files, size)

    def _fetch(self, repo: str, listing: Listing, name: str) -> None:
        told = 0

        def progress(count: int) -> None:
            nonlocal told
            told += count
            self._sink(Fetched(count))

        hub_client.fetch(repo, listing.commit, name, self._cache, progress)
        if told != listing.files[name]:  # shared with another file, or began anew
            self._sink(Fetched(listing.files[name] - told))

    def _offline(self, repo: str, revision: str | None, kind: Kind) -> Snapshot:
        commit = _commit(revision) or self._referred(repo, revision or "main")
        folder = self._folder(repo, commit) if commit else None
        wanted = f"'{repo}'" + (f" at '{revision}'" if revision else "")
        if commit is None or folder is None or not folder.is_dir():
            raise CheckpointError.of(
                f"{wanted} is not in the Hub's cache '{self._cache}', and HF_HUB_OFFLINE is set",
                hint="unset HF_HUB_OFFLINE, or say where it is with --source",
            )
        listing = self._remembered(repo, commit)
        names = listing.files if listing else dict.fromkeys(_below(folder), 0)
        lacking = [
            n for choose in _STAGES[kind] for n in choose(folder, names) if _lacks(folder, n)
        ]
        if lacking:
            raise CheckpointError.of(
                f"{wanted} is not whole in the Hub's cache: {adapter.some(lacking)} not there, and "
                "HF_HUB_OFFLINE is set",
                hint="unset HF_HUB_OFFLINE to fetch the rest",
            )
        if listing is None:
            note = f"note: offline: {wanted} is taken to be all that the Hub's cache has of it"
            self._sink(Warned(note))
        return Snapshot(repo, revision, commit, folder)

    def _folder(self, repo: str, commit: str) -> Path:
        return self._repo(repo) / "snapshots" / commit

    def _repo(self, repo: str) -> Path:
        return self._cache / f"models--{repo.replace('/', '--')}"

    def _referred(self, repo: str, revision: str) -> str | None:
        """The commit that a branch or tag was when it was last looked up."""
        path = self._repo(repo) / "refs" / revision
        try:
            return _commit(read_small(path, 1000).decode().strip())
        except (CheckpointError, UnicodeDecodeError):
            return None

    def _refer(self, repo: str, revision: str | None, commit: str) -> None:
        """Remember what a branch or tag was, as the library does, for when there is no network."""
        name = revision or "main"
        refs = self._repo(repo) / "refs"
        path = refs / name
        if (
            _commit(name)
            or ".." in name
            or name.startswith("/")
            or self._referred(repo, name) == commit
        ):
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, commit.encode())
        except OSError:
            return  # a cache that cannot be written to: it is of use as it is

    def _remembered(self, repo: str, commit: str) -> Listing | None:
        try:
            said: Any = parse_object(read_small(self._listing(repo, commit), _LISTING_LARGEST), "")
        except CheckpointError:
            return None
        sound = all(isinstance(size, int) for size in said.values())
        return Listing(commit, said) if sound else None

    def _remember(self, repo: str, listing: Listing) -> None:
        path = self._listing(repo, listing.commit)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(dict(sorted(listing.files.items()))).encode())

    def _listing(self, repo: str, commit: str) -> Path:
        return self._listings / f"{repo.replace('/', '--')}@{commit}.json"


Choose: TypeAlias = Callable[[Path, Mapping[str, int]], Iterable[str]]
"""Which files of a listing are needed, given what the stages before put into the folder."""


def _beside(folder: Path, names: Mapping[str, int]) -> list[str]:
    """Config, tokenizer and the like, and the index that tells of the weights."""
    found = [name for name in sorted(names) if name in (CONFIG, _CARD) or is_carried(name)]
    loose = any(name.endswith(SUFFIX) and "/" not in name for name in names)
    if SINGLE not in names and INDEX in names:
        found.append(INDEX)
    elif not loose and BIN not in names and BIN_INDEX in names:
        found.append(BIN_INDEX)
    return found


def _weights(folder: Path, names: Mapping[str, int]) -> list[str]:
    """The weights, safetensors if there are any, and code if the config asks for it."""
    top = [name for name in names if "/" not in name]
    found = list(find_weights(folder, top).files)
    if CONFIG in names and runs_code(read_config(folder / CONFIG)[1]):
        found += sorted(filter(is_code, top))
    return found


def _adapter(folder: Path, names: Mapping[str, int]) -> list[str]:
    if adapter.CONFIG not in names:
        raise CheckpointError.of(
            f"'{folder}' is no LoRA adapter: the repository has no '{adapter.CONFIG}'"
        )
    return [adapter.CONFIG, *[name for name in adapter.WEIGHTS if name in names][:1]]


_STAGES: Final[Mapping[Kind, tuple[Choose, ...]]] = {
    "model": (_beside, _weights),
    "adapter": (_adapter,),
}


def _commit(revision: str | None) -> str | None:
    return revision if revision is not None and COMMIT.fullmatch(revision) else None


def _lacks(folder: Path, name: str) -> bool:
    return not (folder / name).exists()


def _below(folder: Path) -> list[str]:
    return [
        str((Path(root) / file).relative_to(folder))
        for root, _, files in os.walk(folder)
        for file in files
    ]
