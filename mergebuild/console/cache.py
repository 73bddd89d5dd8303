"""The cache as text: what is there, what is sound, what may go."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mergebuild.cache import Cache
from mergebuild.cache.gc import Sweep
from mergebuild.cache.store import age_order, names_in
from mergebuild.cache.verify import Verdict
from mergebuild.console.words import duration, plural, size
from mergebuild.engine.check import Comparison

_SHOWN = 12


def cache_json(cache: Cache) -> list[dict[str, Any]]:
    """The checkpoints of a cache, newest first; those that are not whole have no size."""
    pinned = set(names_in(cache.pins))
    rows = []
    for published, key in age_order(cache):
        manifest = cache.lookup(key)
        rows.append(
            {
                "key": key,
                "node": manifest.node if manifest is not None else None,
                "published": published,
                "size": manifest.size if manifest is not None else None,
                "tensors": len(manifest.tensors) if manifest is not None else None,
                "pinned": key in pinned,
            }
        )
    return rows


def cache_text(cache: Cache) -> str:
    """A line a checkpoint, and what lies in quarantine."""
    rows = cache_json(cache)
    aside = names_in(cache.quarantine)
    if not rows and not aside:
        return f"no checkpoints in '{cache.root}'"
    now = time.time()
    lines = []
    for row in rows:
        age = duration(max(0.0, now - row["published"]))
        pin = "  pinned" if row["pinned"] else ""
        if row["size"] is None:
            lines.append(f"{row['key']}  not whole  {age} ago{pin}")
        else:
            lines.append(f"{row['key']}  {size(row['size']):>8}  {age:>12} ago  {row['node']}{pin}")
    total = sum(row["size"] or 0 for row in rows)
    lines.append(f"{plural(len(rows), 'checkpoint')}, {size(total)}")
    lines += [f"damaged, set aside in '{cache.quarantine / name}'" for name in aside]
    return "\n".join(lines)


def verdicts_text(verdicts: Sequence[Verdict]) -> str:
    """What differs, folder by folder, and a summary."""
    lines = []
    for verdict in verdicts:
        for difference in verdict.differences[:_SHOWN]:
            lines.append(f"{verdict.name}: {difference}")
        if len(verdict.differences) > _SHOWN:
            lines.append(f"{verdict.name}: and {len(verdict.differences) - _SHOWN} more")
        if verdict.aside is not None:
            lines.append(f"{verdict.name}: set aside in '{verdict.aside}'; the next build that")
            lines[-1] += " needs it makes it again"
    damaged = sum(bool(verdict.differences) for verdict in verdicts)
    sound = len(verdicts) - damaged
    lines.append(f"{plural(sound, 'checkpoint')} sound, {damaged} damaged")
    return "\n".join(lines)


def comparison_text(name: str, result: Comparison) -> str:
    """Whether a node came out the same again."""
    count = plural(result.tensors, "tensor")
    if result.same:
        return f"{name}: the same again, bit by bit ({count})"
    lines = []
    if result.different:
        lines.append(
            f"{name}: {len(result.different):,} of {count} differ, the first is "
            f"'{result.different[0]}'; the largest distance is {result.distance:g}"
        )
    lines += [f"{name}: file '{file}' differs" for file in result.files]
    return "\n".join(lines)


def sweep_text(sweep: Sweep, deleted: bool) -> str:
    """What goes, with what it would take to make it again."""
    lines = []
    for item in sweep.checkpoints:
        again = f"{plural(item.tensors, 'tensor')}, reads {size(item.read)}"
        lines.append(
            f"{item.key}  {size(item.size):>8}  {duration(max(0.0, item.age)):>12} old  "
            + (f"{item.node}  (again: {again})" if item.node else "not whole")
        )
    lines += [f"left behind: {folder}" for folder in sweep.folders]
    what = f"{plural(len(sweep.checkpoints), 'checkpoint')}, {size(sweep.frees)} of disk"
    lines.append(f"{'removed' if deleted else 'would go'}: {what}; {sweep.kept} stay")
    if not deleted and (sweep.checkpoints or sweep.folders):
        lines.append("nothing was removed: --delete does it")
    return "\n".join(lines)


def sweep_json(sweep: Sweep) -> dict[str, Any]:
    """The same for machines."""
    return {
        "checkpoints": [asdict(item) for item in sweep.checkpoints],
        "folders": [str(folder) for folder in sweep.folders],
        "frees": sweep.frees,
        "kept": sweep.kept,
    }
