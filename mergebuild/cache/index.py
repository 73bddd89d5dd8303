"""Where in the cache a tensor or a whole shard of known content lies.

A database, derived from the manifests, says which checkpoints to look at; what they hold and where
is read from their manifests. So it may be deleted, outdated or damaged at any time: then less is
found, and nothing wrong.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mergebuild.cache.manifest import MANIFEST, Manifest
from mergebuild.cache.records import TensorRecord
from mergebuild.cache.store import Cache

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS checkpoints (key TEXT PRIMARY KEY, version TEXT);
CREATE TABLE IF NOT EXISTS contents (content TEXT, checkpoint TEXT);
CREATE INDEX IF NOT EXISTS by_content ON contents (content);
CREATE INDEX IF NOT EXISTS by_checkpoint ON contents (checkpoint);
"""
_SCHEMA: Final = 2
_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class Region:
    """Where bytes lie: `offset` and `size` in bytes within `path`."""

    path: Path
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class CachedTensor:
    """A tensor that exists already; `digest` is of its content as written, `checkpoint` the key of
    the one in the cache that holds it, None if a source does."""

    region: Region
    digest: str
    checkpoint: str | None = None


class Index:
    """Opened on a cache; to be closed."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._manifests: dict[str, Manifest | None] = {}
        self._database = _open(cache.index)
        try:
            self._refresh()
        except sqlite3.Error:
            self._begin_anew()

    def close(self) -> None:
        self._database.close()

    def tensors(self, keys: Collection[str]) -> dict[str, CachedTensor]:
        """Tensor key to a place that holds it, for those that are cached anywhere."""
        found: dict[str, CachedTensor] = {}
        wanted = set(keys)
        for checkpoint, manifest in self._holding(wanted):
            folder = self._cache.folder(checkpoint)
            for record in manifest.tensors.values():
                if record.key in wanted:
                    found.setdefault(record.key, _cached(record, folder))
        return found

    def shards(self, layouts: Collection[str]) -> dict[str, Path]:
        """Layout digest to a cached file of just that layout."""
        found: dict[str, Path] = {}
        wanted = set(layouts)
        for checkpoint, manifest in self._holding(wanted):
            for name, shard in manifest.shards.items():
                if shard.layout in wanted:
                    found.setdefault(shard.layout, self._cache.folder(checkpoint) / name)
        return found

    def _holding(self, contents: set[str]) -> Iterator[tuple[str, Manifest]]:
        """Complete checkpoints that hold any of these tensors or shards, sorted by key."""
        try:
            checkpoints = self._select(contents)
        except sqlite3.Error:
            self._begin_anew()
            checkpoints = self._select(contents)
        there = set(self._cache.all_keys())
        for checkpoint in sorted(checkpoints & there):
            if checkpoint not in self._manifests:
                self._manifests[checkpoint] = self._cache.lookup(checkpoint)
            manifest = self._manifests[checkpoint]
            if manifest is not None:
                yield checkpoint, manifest

    def _select(self, contents: set[str]) -> set[str]:
        ordered = sorted(contents)
        found: set[str] = set()
        for start in range(0, len(ordered), _BATCH):
            batch = ordered[start : start + _BATCH]
            marks = ",".join("?" * len(batch))
            query = f"SELECT DISTINCT checkpoint FROM contents WHERE content IN ({marks})"
            found.update(str(checkpoint) for (checkpoint,) in self._database.execute(query, batch))
        return found

    def _refresh(self) -> None:
        """Bring the database in line with the folders that are there."""
        known = dict(self._database.execute("SELECT key, version FROM checkpoints"))
        there = {key: _version(self._cache.folder(key)) for key in self._cache.all_keys()}
        for key in sorted(key for key in known if known[key] != there.get(key)):
            self._database.execute("DELETE FROM checkpoints WHERE key = ?", (key,))
            self._database.execute("DELETE FROM contents WHERE checkpoint = ?", (key,))
        for key in sorted(key for key in there if known.get(key) != there[key]):
            self._add(key, there[key])
        with contextlib.suppress(sqlite3.OperationalError):  # a rival is at it, with the same rows
            self._database.commit()

    def _add(self, key: str, version: str) -> None:
        manifest = self._cache.lookup(key)
        if manifest is None:
            return
        self._manifests[key] = manifest
        contents = {record.key for record in manifest.tensors.values()}
        contents.update(shard.layout for shard in manifest.shards.values())
        self._database.execute("INSERT OR REPLACE INTO checkpoints VALUES (?, ?)", (key, version))
        self._database.executemany(
            "INSERT INTO contents VALUES (?, ?)", [(content, key) for content in sorted(contents)]
        )

    def _begin_anew(self) -> None:
        """Go on with a database in memory, and leave the next run to make one on disk."""
        self._database.close()
        self._database = sqlite3.connect(":memory:")
        self._database.executescript(_TABLES)
        self._refresh()


def _cached(record: TensorRecord, folder: Path) -> CachedTensor:
    region = Region(folder / record.shard, record.offset, record.size)
    return CachedTensor(region, record.digest, folder.name)


def _version(folder: Path) -> str:
    """Another one whenever another manifest lies there."""
    try:
        state = os.lstat(folder / MANIFEST)
    except OSError:
        return ""
    return f"{state.st_ino}.{state.st_mtime_ns}"


def _open(path: Path) -> sqlite3.Connection:
    """The database at `path`; a fresh one where it is damaged, one in memory where it cannot be."""
    for _ in range(2):
        try:
            database = sqlite3.connect(path, timeout=1)
        except sqlite3.Error:
            break
        try:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version not in (0, _SCHEMA):
                raise sqlite3.DatabaseError("other schema")
            database.execute("PRAGMA synchronous = OFF")
            database.executescript(_TABLES)
            database.execute(f"PRAGMA user_version = {_SCHEMA}")
            if database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("damaged")
        except sqlite3.OperationalError:
            database.close()
            break
        except sqlite3.DatabaseError:
            database.close()
            with contextlib.suppress(OSError):
                path.unlink()
        else:
            return database
    database = sqlite3.connect(":memory:")
    database.executescript(_TABLES)
    return database
