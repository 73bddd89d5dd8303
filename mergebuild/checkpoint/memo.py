"""A small database of digests by file that may be lost at any time.

One row a file and kind: its path, its identity as the caller writes it, and a JSON object.
Whatever is wrong with the database, it just remembers nothing. Knows nothing of files or digests.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from mergebuild.digest import KEY_SCHEMA, fields_digest

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS digests (
    path BLOB NOT NULL, kind TEXT NOT NULL, identity TEXT NOT NULL, digests TEXT NOT NULL,
    seal TEXT NOT NULL, PRIMARY KEY (path, kind)
) WITHOUT ROWID
"""
_PATIENCE: Final = 0.5


class Memo:
    """Opened when it is first needed; to be closed. For one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._lost = False

    def get(self, file: Path, kind: str, identity: str) -> Mapping[str, str] | None:
        """What was put for a file under this kind and identity, if it is remembered."""
        if self._database is None and not self._path.exists():
            return None
        try:
            database = self._connect()
            if database is None:
                return None
            query = "SELECT identity, digests, seal FROM digests WHERE path = ? AND kind = ?"
            row = database.execute(query, (_key(file), kind)).fetchone()
            if row is None or row[0] != identity or row[2] != _seal(file, kind, identity, row[1]):
                return None
            found: Mapping[str, str] = json.loads(row[1])
        except (sqlite3.Error, OSError):
            self._lost = True  # locked, most likely: waiting again for every file would add up
            return None
        except (ValueError, TypeError):
            return None
        return found

    def put(self, file: Path, kind: str, identity: str, digests: Mapping[str, str]) -> None:
        """Remember; replaces what was there for the file and kind."""
        text = json.dumps(digests, separators=(",", ":"))
        row = (_key(file), kind, identity, text, _seal(file, kind, identity, text))
        try:
            database = self._connect()
            if database is not None:
                with database:
                    database.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?)", row)
        except (sqlite3.Error, OSError):
            self._lost = True

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _connect(self) -> sqlite3.Connection | None:
        if self._database is None and not self._lost:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._database = _open(self._path)
            self._lost = self._database is None
        return None if self._lost else self._database


def _open(path: Path) -> sqlite3.Connection | None:
    """The database; begun anew where it is damaged or of another schema, None if it cannot be."""
    for _ in range(2):
        database: sqlite3.Connection | None = None
        try:
            database = sqlite3.connect(path, timeout=_PATIENCE)
            # Rows carry a seal, so a crash of the machine can lose them and not falsify them.
            database.execute("PRAGMA synchronous = OFF")
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version == KEY_SCHEMA:
                database.execute("SELECT path, kind, identity, digests, seal FROM digests LIMIT 1")
                return database
            with database:
                database.execute("DROP TABLE IF EXISTS digests")
                database.execute(_TABLE)
                database.execute(f"PRAGMA user_version = {KEY_SCHEMA}")
            return database
        except sqlite3.Error as error:
            if database is not None:
                database.close()
            if not _damaged(error):
                return None
            with suppress(OSError):
                path.unlink()
    return None


def _damaged(error: sqlite3.Error) -> bool:
    """Whether the file is no sound database, rather than locked or not to be written."""
    message = str(error)
    return (
        not isinstance(error, sqlite3.OperationalError)
        or "no such" in message
        or "malformed" in message
    )


def _key(file: Path) -> bytes:
    return os.fsencode(os.path.abspath(file))


def _seal(file: Path, kind: str, identity: str, text: str) -> str:
    return fields_digest(
        "memo",
        [("path", _key(file)), ("kind", kind), ("identity", identity), ("digests", text)],
    )
