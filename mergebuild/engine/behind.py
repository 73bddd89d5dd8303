"""Letting the system forget what a build reads no more, where its sources exceed memory.

Left alone it keeps what was read last, whosever it is, and looks through all of it for pages to
give up. Where everything fits nothing is said: the next build finds it in memory.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Final

from mergebuild.cache import Region
from mergebuild.checkpoint.reader import Files
from mergebuild.engine.schedule import Schedule, Task, reads_of
from mergebuild.plan import Plan
from mergebuild.recipe import NodeRef

_SYSTEM: Final = Path("/proc")
_GROUPS: Final = Path("/sys/fs/cgroup")


class Behind:
    """Follows a build whose sources have more than `memory` bytes; from any thread."""

    def __init__(self, plan: Plan, schedule: Schedule, files: Files, memory: int) -> None:
        self._plan = plan
        self._files = files
        self._lock = Lock()
        self._readers: Counter[Region] = Counter()
        if files.expected_bytes > memory:
            self._readers.update(r for task in schedule.tasks for r in _read(plan, task))

    def done(self, task: Task) -> None:
        """A task reads no more."""
        if not self._readers:
            return
        for region in _read(self._plan, task):
            with self._lock:
                self._readers[region] -= 1
                last = not self._readers[region]
            if last:
                self._files.forget(region.path, region.offset, region.size)


def _read(plan: Plan, task: Task) -> Iterator[Region]:
    """The parts of files that a task reads as they are."""
    for reference, tensor in reads_of(task, plan):
        if not isinstance(reference, NodeRef) and tensor not in plan.leaves[reference].derived:
            info = plan.leaves[reference].checkpoint.tensors[tensor]
            yield Region(info.file, info.offset, info.nbytes)


def available_memory(system: Path = _SYSTEM, groups: Path = _GROUPS) -> int:
    """Bytes that this process may fill, page cache included: what the machine has available, or
    what the least of the process's control groups allows."""
    known = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError):
        found = re.search(r"^MemAvailable: +(\d+) kB$", (system / "meminfo").read_text(), re.M)
        known += [int(found[1]) << 10] if found else []
        for line in (system / "self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                known += _limits(groups / controllers, path)
    return min(known)


def _limits(root: Path, path: str) -> Iterator[int]:
    """What a group and all above it allow; of either version of control groups."""
    group = root / path.lstrip("/")
    for folder in (group, *group.parents):
        for name in ("memory.max", "memory.limit_in_bytes") if folder.is_relative_to(root) else ():
            with suppress(OSError, ValueError):
                yield int((folder / name).read_text())
