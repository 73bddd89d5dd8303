"""The files of a built checkpoint with their SHA-256, which is what statements to outsiders are
about; XXH3 resists accidents only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mergebuild.cache import MANIFEST, Manifest, read_manifest
from mergebuild.cache.verify import verify_folder
from mergebuild.errors import CheckpointError, Problem
from mergebuild.events import Sink


@dataclass(frozen=True, slots=True)
class Subject:
    """A built checkpoint that is what its manifest says, and the SHA-256 of its files by name."""

    folder: Path
    manifest: Manifest
    hashes: Mapping[str, str]


def subject(folder: Path, *, jobs: int, sink: Sink) -> Subject:
    """Reads a published folder whole. Raises CheckpointError if it is not what was built."""
    manifest = sound_manifest(folder, jobs=jobs, sink=sink)
    names = sorted((*manifest.file_sizes(), MANIFEST))
    hashes = {}
    for name in names:
        with open(folder / name, "rb") as file:
            hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return Subject(folder, manifest, hashes)


def sound_manifest(folder: Path, *, jobs: int, sink: Sink) -> Manifest:
    """The manifest of a published folder that is what was built, whatever else lies there. Raises
    CheckpointError."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise CheckpointError.of(
            f"'{folder}' was not built by mergebuild", hint="name the folder of an output"
        )
    verdict = verify_folder(folder, jobs=jobs, sink=sink)
    wrong = [d for d in verdict.differences if d.file in {*manifest.file_sizes(), MANIFEST}]
    if wrong:
        hint = "build the output again"
        raise CheckpointError(
            *(Problem(f"'{folder}' is not what was built: {d}", hint=hint) for d in wrong)
        )
    return manifest
