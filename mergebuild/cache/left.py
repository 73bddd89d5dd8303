"""What dead runs left of checkpoints that they were building."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from mergebuild.cache.journal import JOURNAL
from mergebuild.cache.lease import alive
from mergebuild.cache.store import Cache, names_in
from mergebuild.checkpoint.safetensors import ShardPlan
from mergebuild.digest import fields_digest
from mergebuild.files import open_real

CONTENT: Final = "checkpoint"
"""Where in a staging folder the checkpoint is."""


def abandoned(cache: Cache, key: str = "") -> list[Path]:
    """Staging folders, of one key or of all, whose runs are dead."""
    return [
        cache.staging / name
        for name in names_in(cache.staging)
        if name.startswith(f"{key}." if key else "")
        and not (cache.staging / name).is_symlink()
        and not alive(cache, name.partition(".")[2])
    ]


def left_of(cache: Cache, key: str, node: str, shards: tuple[ShardPlan, ...]) -> list[Path]:
    """What was left of a node's checkpoint, whether its key was known or not."""
    return [*abandoned(cache, key), *abandoned(cache, nameless(node, shards))]


def left_like(cache: Cache, shards: tuple[ShardPlan, ...]) -> bool:
    """Whether something was left that is laid out like this."""
    return any(laid_out(folder / CONTENT, shards) for folder in abandoned(cache))


def nameless(node: str, shards: tuple[ShardPlan, ...]) -> str:
    """What stands for a checkpoint's key while that is not known."""
    headers = tuple(shard.header for shard in shards)
    return fields_digest("staging", [("node", node), ("headers", headers)])


def laid_out(content: Path, shards: Iterable[ShardPlan]) -> bool:
    """Whether a folder has files of these sizes with these headers."""
    for shard in shards:
        try:
            descriptor = open_real(content / shard.name, os.O_RDONLY)
        except OSError:
            return False
        try:
            same = os.fstat(descriptor).st_size == shard.size
            if not same or os.pread(descriptor, len(shard.header), 0) != shard.header:
                return False
        finally:
            os.close(descriptor)
    return True


def progress(folder: Path) -> int:
    """How much the journal of a staging folder holds, to tell which has more."""
    try:
        return (folder / JOURNAL).stat().st_size
    except OSError:
        return 0
