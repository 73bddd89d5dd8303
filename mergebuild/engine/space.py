"""Whether there is room, before anything is written, and what to say when there is none."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from mergebuild.cache import Cache
from mergebuild.cache.left import left_of
from mergebuild.errors import BuildError, CapacityError, MergebuildError
from mergebuild.files import free_bytes, nearest
from mergebuild.plan import NodePlan, Plan

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_HINT = "free some space, or put the cache elsewhere with --cache"


def check_space(plan: Plan) -> None:
    """Raises CapacityError unless the cache and every output have room for what they get.

    What an interrupted build has laid out already counts as there; an output on the file system
    of the cache shares its blocks.
    """
    needs: dict[int, tuple[Path, int]] = {}
    for place, size in _needs(plan):
        device = nearest(place).stat().st_dev
        first, total = needs.get(device, (place, 0))
        needs[device] = first, total + size
    for place, size in needs.values():
        free = free_bytes(place)
        if size > free:
            raise CapacityError.of(
                f"the build writes {size:,} bytes to '{place}', where {free:,} are free", hint=_HINT
            )


def _needs(plan: Plan) -> list[tuple[Path, int]]:
    laid_out = sum(
        allocated(folder)
        for name, node in plan.nodes.items()
        if node.wanted and node.stored
        for folder in left_of(plan.cache, node.key, name, node.shards)
    )
    needs = [(plan.cache.root, max(0, plan.costs.disk - laid_out))]
    device = nearest(plan.cache.root).stat().st_dev
    for node in plan.nodes.values():
        if node.output is not None and not node.output.fresh:
            place = node.output.path.parent
            shared = nearest(place).stat().st_dev == device
            needs.append((place, 0 if shared else _size(node)))
    return needs


def _size(node: NodePlan) -> int:
    if node.cached is not None:
        return node.cached.size
    files = sum(file.size for file in node.outline.side_files)
    return files + sum(shard.size for shard in node.shards)


def allocated(folder: Path) -> int:
    """Bytes that a folder takes on disk."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
            except OSError:
                continue
    return total


def failure(error: OSError, cache: Cache) -> MergebuildError:
    """What the system refused during a build, as an error for the user."""
    place = error.filename if isinstance(error.filename, str) else str(cache.root)
    if error.errno in _FULL:
        return CapacityError.of(
            f"no room for '{place}': {error.strerror}, with {free_bytes(Path(place)):,} bytes free",
            hint=_HINT,
        )
    return BuildError.of(
        f"cannot write '{place}': {error.strerror or error}",
        hint="what was finished is kept: run the build again when this is mended",
    )
