"""What a cached checkpoint holds, by SHA-256: read whole, and compared with its manifest on the
way, so that no damage is ever shared."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

from mergebuild.cache import Cache, Manifest, Unsound, to_text
from mergebuild.cache.content import Progress, no_progress
from mergebuild.checkpoint.regular import opened, read_exactly
from mergebuild.digest import ContentDigest, bytes_digest
from mergebuild.errors import CheckpointError
from mergebuild.remote.claim import Blob, Claim, ClaimedTensor, planned

_BLOCK: Final = 1 << 22


def portable(manifest: Manifest) -> Manifest:
    """A manifest without what is true of one place only: its files' times of change."""
    return replace(
        manifest,
        shards={name: replace(record, mtime=0) for name, record in manifest.shards.items()},
        files={name: replace(record, mtime=0) for name, record in manifest.files.items()},
    )


def take_inventory(
    cache: Cache, key: str, *, jobs: int = 1, progress: Progress = no_progress
) -> tuple[Claim, bytes]:
    """The claim about a checkpoint in the cache, and the text of its portable manifest.

    Raises Unsound if it is not there, not whole or not what was written.
    """
    manifest = cache.lookup(key)
    if manifest is None:
        raise Unsound(key, "it is not there, or not whole")
    folder = cache.folder(key)
    text = to_text(portable(manifest))
    try:
        with ThreadPoolExecutor(jobs) as pool:
            read = [
                pool.submit(_shard, folder / name, name, manifest, progress)
                for name in manifest.shards
            ]
            shards = [future.result() for future in read]
        files = {name: _file(folder / name) for name in manifest.files}
    except CheckpointError as error:
        raise Unsound(key, error.problems[0].message) from error
    claim = Claim(
        key=key,
        node=manifest.node,
        manifest=Blob(len(text), hashlib.sha256(text).hexdigest()),
        files=files,
        shards={name: blob for name, (blob, _) in zip(manifest.shards, shards, strict=True)},
        tensors={name: tensor for _, tensors in shards for name, tensor in tensors.items()},
    )
    for name, tensor in claim.tensors.items():
        if tensor.digest != manifest.tensors[name].digest:
            raise Unsound(key, f"tensor '{name}' is not what was written")
    for name, (_, digest) in claim.files.items():
        if digest != manifest.files[name].digest:
            raise Unsound(key, f"'{name}' is not what was written")
    for shard in planned(claim):
        if shard.header != _beginning(folder / shard.name, len(shard.header)):
            raise Unsound(key, f"'{shard.name}' has another header")
    return claim, text


def _beginning(path: Path, size: int) -> bytes:
    with opened(path) as descriptor:
        return os.pread(descriptor, size, 0)


def _shard(
    path: Path, name: str, manifest: Manifest, progress: Progress
) -> tuple[Blob, dict[str, ClaimedTensor]]:
    """One file of weights, read once from beginning to end."""
    records = {n: r for n, r in manifest.tensors.items() if r.shard == name}
    whole = hashlib.sha256()
    tensors: dict[str, ClaimedTensor] = {}
    with opened(path) as descriptor:
        size = os.fstat(descriptor).st_size
        at = 0
        for tensor in sorted(records, key=lambda n: (records[n].offset, records[n].size)):
            record = records[tensor]
            for piece in _pieces(descriptor, path, at, record.offset):  # the header
                whole.update(piece)
            own, content = hashlib.sha256(), ContentDigest(record.dtype, record.shape)
            at = record.offset + record.size
            for piece in _pieces(descriptor, path, record.offset, at):
                for digest in (whole, own, content):
                    digest.update(piece)
                progress(len(piece))
            tensors[tensor] = ClaimedTensor(
                record.key, record.dtype, record.shape, name, record.offset, record.size,
                content.hexdigest(), own.hexdigest(),
            )  # fmt: skip
        for piece in _pieces(descriptor, path, at, size):
            whole.update(piece)
    return Blob(size, whole.hexdigest()), tensors


def _pieces(descriptor: int, path: Path, start: int, stop: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(min(_BLOCK, max(0, stop - start))))
    for at in range(start, stop, _BLOCK):
        piece = buffer[: min(_BLOCK, stop - at)]
        read_exactly(descriptor, piece, at, path, "its content")
        yield piece


def _file(path: Path) -> tuple[Blob, str]:
    with opened(path) as descriptor:
        data = bytearray(os.fstat(descriptor).st_size)
        read_exactly(descriptor, memoryview(data), 0, path, "its content")
    return Blob(len(data), hashlib.sha256(data).hexdigest()), bytes_digest(data)
