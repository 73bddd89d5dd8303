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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mergebuild.checkpoint import adapter, hub_client
from mergebuild.checkpoint.hub_client import COMMIT, Listing
from mergebuild.checkpoint.hub_files import STAGES, Kind
from mergebuild.checkpoint.regular import parse_object, read_small
from mergebuild.errors import CheckpointError
from mergebuild.events import Fetched, Fetching, Sink, Warned
from mergebuild.files import write_file

_REPO: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_LISTING_LARGEST: Final = 32 << 20
_TRUE: Final = frozenset({"1", "ON", "YES", "TRUE"})


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a revision is known to mean: a commit, and the sizes of the files that it takes."""

    commit: str
    files: Mapping[str, int]


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
    """Snapshots for one plan: each revision is resolved once and stays what it was then.
    `offline` forbids requests, as the environment may."""

    def __init__(self, listings: Path, sink: Sink, *, offline: bool = False) -> None:
        self._offline = offline or is_offline()
        said = ("--offline is given", "leave --offline out")
        self._why = said if offline else ("HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE")
        self._listings = listings
        self._sink = sink
        self._cache = cache_folder()
        self._found: dict[tuple[str, str | None, Kind], Snapshot] = {}
        self._commits: dict[tuple[str, str | None], str] = {}

    def snapshot(
        self, repo: str, revision: str | None, kind: Kind, pinned: Pinned | None = None
    ) -> Snapshot:
        """A revision (None: the main branch) of a repository, with all files that a model or an
        adapter takes. Where it is `pinned`, that says what the revision means, and no request is
        made if its files are there. Raises CheckpointError."""
        asked = repo, revision, kind
        if asked not in self._found:
            self._found[asked] = self._snapshot(repo, revision, kind, pinned)
        return self._found[asked]

    def commit(self, repo: str, revision: str | None, known: str | None) -> str:
        """The commit that a revision is, without a request where it is `known` or is one itself.
        Raises CheckpointError."""
        found = _commit(revision) or known
        if found is None and self._offline:
            found = self._referred(repo, revision or "main")
            if found is None:
                raise CheckpointError.of(
                    f"what '{revision or 'main'}' of '{repo}' is cannot be asked: {self._why[0]}",
                    hint=self._why[1],
                )
        if found is None:
            listing = hub_client.list_files(repo, revision)
            self._remember(repo, listing)
            self._refer(repo, revision, listing.commit)
            found = listing.commit
        return found

    def file(self, repo: str, commit: str, name: str, limit: int) -> Path:
        """One file of a commit, of at most `limit` bytes. Raises CheckpointError."""
        path = self._folder(repo, commit) / name
        if path.exists():
            return path
        if self._offline:
            raise CheckpointError.of(
                f"'{name}' of '{repo}' is not in the Hub's cache, and {self._why[0]}",
                hint=self._why[1],
            )
        listing = self._remembered(repo, commit)
        if listing is None:
            listing = hub_client.list_files(repo, commit)
            self._remember(repo, listing)
        size = listing.files.get(name)
        if size is None or size > limit:
            why = "has no" if size is None else f"has {size} bytes, too many, in its"
            raise CheckpointError.of(f"'{repo}' at {commit[:12]} {why} '{name}'")
        hub_client.fetch(repo, commit, name, self._cache, lambda _: None)
        return path

    def _snapshot(
        self, repo: str, revision: str | None, kind: Kind, pinned: Pinned | None
    ) -> Snapshot:
        commit = _commit(revision)
        if pinned is not None and commit in (None, pinned.commit):
            commit = pinned.commit
            folder = self._folder(repo, commit)
            if all(_has(folder / name, size) for name, size in pinned.files.items()):
                return Snapshot(repo, revision, commit, folder)
        if self._offline:
            return self._at_hand(repo, revision, commit, kind)
        commit = commit or self._commits.get((repo, revision))
        listing = self._remembered(repo, commit) if commit is not None else None
        if listing is None:
            listing = hub_client.list_files(repo, commit or revision)
            self._remember(repo, listing)
        self._commits[repo, revision] = listing.commit
        folder = self._folder(repo, listing.commit)
        files = size = 0
        for choose in STAGES[kind]:
            missing = [name for name in choose(folder, listing.files) if _lacks(folder, name)]
            if not missing:
                continue
            total = sum(listing.files[name] for name in missing)
            self._sink(Fetching(repo, listing.commit, len(missing), total))
            for name in missing:
                self._fetch(repo, listing, name)
            files, size = files + len(missing), size + total
        if pinned is None:
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

    def _at_hand(self, repo: str, revision: str | None, commit: str | None, kind: Kind) -> Snapshot:
        """A snapshot without a request; `commit`, if it is known what the revision means."""
        commit = commit or self._referred(repo, revision or "main")
        folder = self._folder(repo, commit) if commit else None
        wanted = f"'{repo}'" + (f" at '{revision}'" if revision else "")
        if commit is None or folder is None or not folder.is_dir():
            raise CheckpointError.of(
                f"{wanted} is not in the Hub's cache '{self._cache}', and {self._why[0]}",
                hint=f"{self._why[1]}, or say where it is with --source",
            )
        listing = self._remembered(repo, commit)
        names = listing.files if listing else dict.fromkeys(_below(folder), 0)
        lacking = [n for choose in STAGES[kind] for n in choose(folder, names) if _lacks(folder, n)]
        if lacking:
            raise CheckpointError.of(
                f"{wanted} is not whole in the Hub's cache: {adapter.some(lacking)} not there, and "
                f"{self._why[0]}",
                hint=f"{self._why[1]} to fetch the rest",
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


def _commit(revision: str | None) -> str | None:
    return revision if revision is not None and COMMIT.fullmatch(revision) else None


def _has(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except (OSError, ValueError):
        return False


def _lacks(folder: Path, name: str) -> bool:
    return not (folder / name).exists()


def _below(folder: Path) -> list[str]:
    return [
        str((Path(root) / file).relative_to(folder))
        for root, _, files in os.walk(folder)
        for file in files
    ]
