"""The journal of a checkpoint that is being built: which tensors are written, with their keys and
digests.

A line a tensor. The last one may be torn, and anything may have happened to the file since: what
it says is a claim, to be compared with the tensors themselves.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Final, NamedTuple

from mergebuild.files import open_real

JOURNAL: Final = "journal.jsonl"


class Finished(NamedTuple):
    """A tensor that is written whole: the digest of its content, and the key it was made for."""

    digest: str
    key: str


class Journal:
    """A journal that is appended to, from any thread; to be closed."""

    def __init__(self, path: Path) -> None:
        self._lock = Lock()
        self._descriptor = open_real(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @property
    def empty(self) -> bool:
        return not os.fstat(self._descriptor).st_size

    def note(self, tensor: str, finished: Finished) -> None:
        """Note that a tensor is written whole."""
        line = json.dumps([tensor, *finished]).encode() + b"\n"
        with self._lock:
            os.write(self._descriptor, line)

    def close(self) -> None:
        os.close(self._descriptor)


def records(path: Path) -> Iterator[tuple[str, Finished]]:
    """What was noted, up to the first line that is torn or damaged; there the file is cut off."""
    try:
        descriptor = open_real(path, os.O_RDWR)
    except OSError:
        return
    with open(descriptor, "r+b") as file:
        sound = 0
        for line in file:
            try:
                tensor, digest, key = json.loads(line)
            except (ValueError, TypeError, RecursionError):
                break
            if not line.endswith(b"\n") or not isinstance(tensor, str):
                break
            sound += len(line)
            yield tensor, Finished(str(digest), str(key))
        file.truncate(sound)
