"""The cache: complete checkpoints by key, found, listed, and set aside when they are damaged.

    checkpoints/<key>/   complete, read-only, with a manifest
    staging/             being built (see staging.py)
    leases/              who builds what (see lease.py)
    quarantine/          damaged checkpoints, for a look
    pins/<key>           never collected as garbage
    recipes/<id>.json    which recipes were built here, and into what (see registry.py)
    runs/                one log a run
    digests.db index.db  derived; may be deleted at any time

A directory counts only with a whole manifest of its own key whose files are there in their sizes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mergebuild.cache.content import differences, regular
from mergebuild.cache.manifest import MANIFEST, Manifest, read_manifest
from mergebuild.errors import BuildError, CheckpointError
from mergebuild.files import make_directories

_KEY: Final = re.compile(r"[0-9a-f]{32}")


class Unsound(BuildError):
    """A checkpoint that a plan relies on is damaged or gone; planned again, a build does without.

    `key` says which."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(*BuildError.of(f"checkpoint {key} in the cache: {why}").problems)
        self.key = key
        self.why = why


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache at `root`; nothing is created before something is built."""

    root: Path

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def staging(self) -> Path:
        return self.root / "staging"

    @property
    def leases(self) -> Path:
        return self.root / "leases"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    @property
    def pins(self) -> Path:
        return self.root / "pins"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def digests(self) -> Path:
        return self.root / "digests.db"

    @property
    def index(self) -> Path:
        return self.root / "index.db"

    @property
    def recipes(self) -> Path:
        return self.root / "recipes"

    def folder(self, key: str) -> Path:
        return self.checkpoints / key

    def lookup(self, key: str, *, later: bool = False) -> Manifest | None:
        """The manifest of a complete checkpoint; None if it is not there or not whole. `later` is
        as for `read_manifest`."""
        if self.folder(key).is_symlink():
            return None
        manifest = sound(self.folder(key), later=later)
        return manifest if manifest is not None and manifest.key == key else None

    def all_keys(self) -> Iterator[str]:
        """Keys of all that lies under checkpoints/, whole or not, sorted."""
        return (name for name in names_in(self.checkpoints) if _KEY.fullmatch(name))


def names_in(folder: Path) -> list[str]:
    """The names in a directory, sorted; none if there is no such directory."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def sound(folder: Path, *, later: bool = False) -> Manifest | None:
    """The folder's manifest if every file that it lists is there in its size and untouched since.
    `later` is as for `read_manifest`.

    A file that was touched is read: its content decides.
    """
    try:
        manifest = read_manifest(folder, later=later)
    except CheckpointError:
        return None
    if manifest is None:
        return None
    touched = []
    mtimes = manifest.mtimes()
    for name, size in manifest.file_sizes().items():
        state = regular(folder, name)
        if state is None or state.st_size != size:
            return None
        if state.st_mtime_ns != mtimes[name]:
            touched.append(name)
    if touched and later:
        return sound(folder)
    if touched and differences(folder, manifest, touched):
        return None
    return manifest


def set_aside(cache: Cache, key: str) -> Path | None:
    """Move a damaged checkpoint to the quarantine; None if it is gone already.

    Its files are touched, so that all who share them by hard links look at their content again.
    """
    folder = cache.folder(key)
    place = cache.quarantine / f"{key}.{os.urandom(6).hex()}"
    make_directories(cache.quarantine)
    for parent, _, names in os.walk(folder) if not folder.is_symlink() else ():
        for name in names:
            with suppress(OSError):
                os.utime(Path(parent, name), follow_symlinks=False)
    try:
        folder.rename(place)
    except FileNotFoundError:
        return None
    return place


def age_order(cache: Cache) -> list[tuple[float, str]]:
    """(time of publishing in seconds since the epoch, key) of all checkpoints, newest first."""
    found = []
    for key in cache.all_keys():
        try:
            found.append(((cache.folder(key) / MANIFEST).stat().st_mtime, key))
        except OSError:
            found.append((0.0, key))
    return sorted(found, reverse=True)
