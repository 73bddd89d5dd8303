"""Verifying: everything is read and compared with what was written.

Damage in the cache is set aside, so that the next build makes it again; damage in an output is
only told, and the next build replaces it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from mergebuild.cache.content import Difference, Progress, differences, extra_files
from mergebuild.cache.manifest import MANIFEST, read_manifest
from mergebuild.cache.store import Cache, set_aside
from mergebuild.errors import CheckpointError
from mergebuild.events import Digested, Sink, Verified, Verifying


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of a folder, and where it was set aside if it was damaged in the cache."""

    name: str
    differences: tuple[Difference, ...]
    aside: Path | None = None


def verify_cache(cache: Cache, keys: Collection[str], *, jobs: int, sink: Sink) -> list[Verdict]:
    """Verify checkpoints of the cache. Raises OSError if a damaged one cannot be set aside."""
    verdicts = []
    for key in keys:
        found = _verify(cache.folder(key), key, key, jobs, sink)
        aside = set_aside(cache, key) if found else None
        verdicts.append(Verdict(key, found, aside))
    return verdicts


def verify_folder(folder: Path, *, jobs: int, sink: Sink) -> Verdict:
    """Verify a folder that a build published."""
    return Verdict(str(folder), _verify(folder, str(folder), None, jobs, sink))


def _verify(
    folder: Path, name: str, key: str | None, jobs: int, sink: Sink
) -> tuple[Difference, ...]:
    """`key` is what the checkpoint must be, if that is known."""
    found = []
    try:
        manifest = read_manifest(folder)
    except CheckpointError as error:
        found.append(Difference(MANIFEST, f"is damaged: {error.problems[0].message}"))
    else:
        if manifest is None:
            found.append(Difference(MANIFEST, "is missing"))
        elif key is not None and (manifest.key != key or folder.is_symlink()):
            found.append(Difference(MANIFEST, f"is of another checkpoint, {manifest.key}"))
        else:
            sink(Verifying(name, manifest.size))
            files = manifest.file_sizes()
            progress = _telling(sink)
            found += differences(folder, manifest, files, jobs=jobs, progress=progress)
            found += extra_files(folder, manifest)
    sink(Verified(name, tuple(map(str, found))))
    return tuple(found)


def _telling(sink: Sink) -> Progress:
    lock = Lock()

    def progress(done: int) -> None:
        with lock:
            sink(Digested(done))

    return progress
