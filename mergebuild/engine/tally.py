"""What a running build has done so far; the only place where its threads meet.

Every change is told to the sink under one lock, so events come one at a time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from threading import Lock
from typing import get_args

from mergebuild.engine.schedule import Schedule, Task
from mergebuild.events import (
    BuildFinished,
    Event,
    How,
    NodeBuilt,
    NodeStarted,
    Sink,
    TensorDone,
    Warned,
)


class Tally:
    """Counts tensors, nodes and readers of a build, and keeps the digests of what was written."""

    def __init__(self, run: str, sink: Sink) -> None:
        self.run = run
        self._sink = sink
        self._lock = Lock()
        self._began = time.monotonic()
        self._started: dict[str, float] = {}
        self._left: dict[str, int] = {}
        self._readers: dict[Task, int] = {}
        self._counts: dict[How, int] = dict.fromkeys(get_args(How), 0)
        self._digests: dict[str, dict[str, str]] = {}
        self._remarks: dict[str, dict[str, int]] = {}
        self._built: list[str] = []
        self._published: list[str] = []
        self._written = 0

    def expect(self, schedule: Schedule, nodes: Mapping[str, object]) -> None:
        """Learn what is to be done."""
        self._left = dict.fromkeys(nodes, 0)
        for task in schedule.tasks:
            self._left[task[0]] += 1
            for need in schedule.needs[task]:
                self._readers[need] = self._readers.get(need, 0) + 1

    def tell(self, event: Event) -> None:
        with self._lock:
            self._sink(event)

    def start(self, node: str) -> None:
        """Work on a node begins, if it has not begun already."""
        with self._lock:
            if node not in self._started:
                self._started[node] = time.monotonic()
                self._sink(NodeStarted(node))

    def tensor(self, node: str, tensor: str, how: How, size: int, digest: str) -> None:
        """A tensor is where it belongs; `digest` is of its content."""
        with self._lock:
            self._counts[how] += 1
            self._written += size if how in ("computed", "copied", "fetched") else 0
            self._digests.setdefault(node, {})[tensor] = digest
            self._sink(TensorDone(node, tensor, how, size))

    def digests(self, node: str) -> Mapping[str, str]:
        return self._digests.get(node, {})

    def last(self, node: str) -> bool:
        """Count off one task of a node; whether it was the last."""
        with self._lock:
            self._left[node] -= 1
            return not self._left[node]

    def empty(self, node: str) -> bool:
        """Whether a node has no task at all."""
        return not self._left[node]

    def read_again(self, task: Task) -> bool:
        """Whether a task's tensor still has readers to come."""
        with self._lock:
            return bool(self._readers.get(task))

    def read(self, task: Task) -> bool:
        """Count off one reader of a task's tensor, if it is a task; whether it was the last."""
        with self._lock:
            if task not in self._readers:
                return False
            self._readers[task] -= 1
            return not self._readers[task]

    def remark(self, node: str, text: str) -> None:
        """Something is true of one more tensor of a node that the user should know."""
        with self._lock:
            remarks = self._remarks.setdefault(node, {})
            remarks[text] = remarks.get(text, 0) + 1

    def built(self, node: str, key: str) -> None:
        with self._lock:
            for text, count in sorted(self._remarks.get(node, {}).items()):
                many = f"{count:,} tensor" + ("s" if count > 1 else "")
                self._sink(Warned(f"warning: node '{node}': {text} ({many})"))
            seconds = time.monotonic() - self._started.get(node, time.monotonic())
            self._built.append(node)
            self._sink(NodeBuilt(node, key, seconds))

    def published(self, path: str) -> None:
        self._published.append(path)

    def summary(self, error: str | None) -> BuildFinished:
        return BuildFinished(
            run=self.run,
            ok=error is None,
            seconds=time.monotonic() - self._began,
            computed=self._counts["computed"],
            copied=self._counts["copied"],
            linked=self._counts["linked"],
            resumed=self._counts["resumed"],
            fetched=self._counts["fetched"],
            written=self._written,
            built=tuple(self._built),
            published=tuple(self._published),
            error=error,
        )
