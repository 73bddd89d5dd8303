"""SHA-256 of what a checkpoint holds, however its tensors are split into files.

SHA-256 of lines (JSON): [name, dtype, shape, SHA-256 of the bytes] of tensors, sorted by name,
then ["file", name, SHA-256] of side files, sorted by name
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mergebuild.cache import Manifest
from mergebuild.checkpoint.digests import DigestMemo, Progress
from mergebuild.checkpoint.hashes import file_hashes, region_hashes
from mergebuild.checkpoint.safetensors import INDEX


def output_hash(
    manifest: Manifest, folder: Path, memo: DigestMemo, *, jobs: int, progress: Progress
) -> str:
    """The hash of a checkpoint in the cache. Raises CheckpointError if it cannot be read."""
    tensors: dict[str, str] = {}
    for shard in sorted(manifest.shards):
        regions = {
            name: (record.offset, record.size)
            for name, record in manifest.tensors.items()
            if record.shard == shard
        }
        tensors |= region_hashes(memo, folder / shard, regions, jobs=jobs, progress=progress)
    names = sorted(name for name in manifest.files if name != INDEX)
    hashes = file_hashes(memo, [folder / name for name in names], jobs=jobs, progress=progress)
    files = {name: hashes[folder / name].sha256 for name in names}
    digest = hashlib.sha256()
    for row in _rows(manifest, tensors, files):
        digest.update(json.dumps(row, ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()


def _rows(
    manifest: Manifest, tensors: dict[str, str], files: dict[str, str]
) -> Iterator[list[Any]]:
    for name, record in sorted(manifest.tensors.items()):
        yield [name, record.dtype, list(record.shape), tensors[name]]
    for name, sha256 in sorted(files.items()):
        yield ["file", name, sha256]
