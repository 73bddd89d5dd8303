"""Collecting garbage: what nobody needs any more, found by marking and removed by sweeping.

Marked are what registered recipes built last, what outputs hold, pins, and what live builds make
or read. A build may come to need something just when it goes: it then plans again without it.
"""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

from mergebuild.cache.beside import left_beside
from mergebuild.cache.lease import live, sweep_leases
from mergebuild.cache.left import abandoned
from mergebuild.cache.manifest import Manifest, read_manifest
from mergebuild.cache.registry import all_registered
from mergebuild.cache.store import Cache, age_order, names_in
from mergebuild.checkpoint.dtypes import DTYPES
from mergebuild.errors import CheckpointError
from mergebuild.files import make_directories, remove_tree, write_file

DAY: Final = 86_400.0
_ABANDONED_AGE: Final = DAY
_QUARANTINE_AGE: Final = 30 * DAY


@dataclass(frozen=True, slots=True)
class Limits:
    """What may go of what is not marked: all, or only what is needed to come down to `size` bytes,
    what is older than `age` seconds, what is not among the `last` newest."""

    size: int | None = None
    age: float | None = None
    last: int = 0


@dataclass(frozen=True, slots=True)
class Garbage:
    """A checkpoint that may go: what making it again takes, in tensors and bytes read."""

    key: str
    node: str
    size: int
    age: float
    tensors: int
    read: int


@dataclass(frozen=True, slots=True)
class Sweep:
    """All that may go: checkpoints, and folders left by dead runs or long in quarantine. `frees`
    are the bytes that come free, `kept` the checkpoints that stay, `damaged` records of recipes
    that cannot be read, so that what they name is not marked."""

    checkpoints: tuple[Garbage, ...]
    folders: tuple[Path, ...]
    frees: int
    kept: int
    damaged: tuple[Path, ...]


def find_garbage(cache: Cache, limits: Limits) -> Sweep:
    """What may go now. Decides, and does nothing."""
    marked = marked_keys(cache)
    now = time.time()
    order = age_order(cache)
    sizes = {key: _size(cache.folder(key)) for _, key in order}
    total = sum(sizes.values())
    found: list[Garbage] = []
    candidates = [(now - published, key) for published, key in order if key not in marked]
    for age, key in reversed(candidates[limits.last :]):
        if limits.age is not None and age < limits.age:
            continue
        if limits.size is not None and total <= limits.size:
            break
        total -= sizes[key]
        found.append(_garbage(cache, key, sizes[key], age))
    folders = (*_left(cache, now), *_long_in_quarantine(cache, now, limits.age), *_beside(cache))
    going = (*(cache.folder(item.key) for item in found), *folders)
    return Sweep(
        checkpoints=tuple(found),
        folders=folders,
        frees=_frees(going),
        kept=len(order) - len(found),
        damaged=tuple(path for path, record in all_registered(cache) if record is None),
    )


def collect(cache: Cache, garbage: Sweep) -> Sweep:
    """Remove what was found, but for what a build has come to need since; what is gone now."""
    gone = []
    for item in garbage.checkpoints:
        if item.key not in marked_keys(cache) and _remove(cache, cache.folder(item.key)):
            gone.append(item)
    for folder in garbage.folders:
        remove_tree(folder)
    sweep_leases(cache)
    kept = garbage.kept + len(garbage.checkpoints) - len(gone)
    return Sweep(tuple(gone), garbage.folders, garbage.frees, kept, garbage.damaged)


def marked_keys(cache: Cache) -> set[str]:
    """The keys of all that has to stay."""
    marked = set(names_in(cache.pins))
    for holder in live(cache):
        marked.update(holder.builds, holder.reads)
    for _, record in all_registered(cache):
        if record is None:
            continue
        if Path(record.recipe).is_file():
            marked.update(record.nodes.values())
        for folder in record.outputs.values():
            with suppress(CheckpointError):
                manifest = read_manifest(Path(folder))
                marked.update([manifest.key] if manifest is not None else [])
    return marked


def pin(cache: Cache, key: str) -> None:
    """Keep a checkpoint whatever happens to the recipes that made it."""
    make_directories(cache.pins)
    write_file(cache.pins / key, b"")


def unpin(cache: Cache, key: str) -> None:
    (cache.pins / key).unlink(missing_ok=True)


def _garbage(cache: Cache, key: str, size: int, age: float) -> Garbage:
    manifest = cache.lookup(key)
    if manifest is None:
        return Garbage(key, "", size, age, 0, 0)
    return Garbage(key, manifest.node, size, age, len(manifest.tensors), _inputs(manifest))


def _inputs(manifest: Manifest) -> int:
    """Bytes that computing all tensors reads."""
    return sum(
        prod(record.shape) * DTYPES[operand.dtype].size
        for record in manifest.tensors.values()
        for operand in record.expression.operands
        if operand.dtype in DTYPES
    )


def _left(cache: Cache, now: float) -> Iterator[Path]:
    """Staging folders of dead runs, if they are old or what they were for is there by now."""
    there = set(cache.all_keys())
    for folder in abandoned(cache):
        old = now - _last_change(folder) > _ABANDONED_AGE
        if old or folder.name.partition(".")[0] in there:
            yield folder


def _long_in_quarantine(cache: Cache, now: float, age: float | None) -> Iterator[Path]:
    for name in names_in(cache.quarantine):
        folder = cache.quarantine / name
        if now - _last_change(folder) > (_QUARANTINE_AGE if age is None else age):
            yield folder


def _beside(cache: Cache) -> Iterator[Path]:
    for _, record in all_registered(cache):
        for output in record.outputs.values() if record is not None else ():
            yield from left_beside(cache, Path(output))


def _last_change(folder: Path) -> float:
    """Of anything within, in seconds since the epoch."""
    newest = os.lstat(folder).st_mtime
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                newest = max(newest, os.lstat(os.path.join(parent, name)).st_mtime)
    return newest


def _size(folder: Path) -> int:
    return sum(state.st_size for state in _states(folder))


def _states(folder: Path) -> Iterator[os.stat_result]:
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                yield os.lstat(os.path.join(parent, name))


def _frees(folders: tuple[Path, ...]) -> int:
    """Bytes on disk that come free: of files whose every link goes."""
    links: Counter[tuple[int, int]] = Counter()
    states = [state for folder in folders for state in _states(folder)]
    for state in states:
        links[state.st_dev, state.st_ino] += 1
    once = {(s.st_dev, s.st_ino): s for s in states}
    return sum(s.st_blocks * 512 for file, s in once.items() if links[file] >= s.st_nlink)


def _remove(cache: Cache, folder: Path) -> bool:
    """Take a folder away whole, in one step, before it is removed file by file."""
    aside = cache.staging / f"removed.{uuid.uuid4().hex[:12]}"
    try:
        make_directories(cache.staging)
        folder.rename(aside)
    except FileNotFoundError:
        return False
    remove_tree(aside)
    return True
