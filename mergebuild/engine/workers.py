"""Running scheduled tasks on threads: each as soon as what it needs is done, in scheduled order.

A task is made first, then finished, when what it wrote has landed; no thread waits for that.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Condition, Event, Thread
from typing import TypeAlias

from mergebuild.engine.ring import Landing
from mergebuild.engine.schedule import Schedule, Task

Finish: TypeAlias = Callable[[], None]
Made: TypeAlias = tuple[Landing, Finish]
"""What a task has on its way to the disk, and what is to be done when it is there."""


@dataclass(slots=True)
class _Shared:
    """Parts of one task that any thread may do."""

    left: deque[Finish]
    running: int = 0
    failure: BaseException | None = None


class Workers:
    """Runs every task of a schedule once. After the first failure no task is started, and `stop`
    tells those that are running to end."""

    def __init__(
        self, schedule: Schedule, make: Callable[[Task], Made], jobs: int, stop: Event
    ) -> None:
        self._stop = stop
        self._make = make
        self._jobs = jobs
        self._changed = Condition()
        self._rank = {task: index for index, task in enumerate(schedule.tasks)}
        self._waiting = {task: len(schedule.needs[task]) for task in schedule.tasks}
        self._users: dict[Task, list[Task]] = defaultdict(list)
        for task in schedule.tasks:
            for need in schedule.needs[task]:
                self._users[need].append(task)
        self._ready = [
            (self._rank[task], task) for task in schedule.tasks if not self._waiting[task]
        ]
        self._landed: deque[tuple[Task, Made]] = deque()
        self._shared: list[_Shared] = []
        self._left = len(schedule.tasks)
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Run all; raises what the first failing task raised, or KeyboardInterrupt, after the
        tasks that were running have ended."""
        threads = [Thread(target=self._work, daemon=True) for _ in range(self._jobs)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException as interrupt:
            self._fail(interrupt)
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if self._failure is not None:
            raise self._failure

    def share(self, work: Sequence[Finish]) -> None:
        """Called by a running task: do all of this, with the help of threads that have no task.

        Raises what the first failing part raised, after those that were running have ended, and
        KeyboardInterrupt where the build is to stop before all are begun.
        """
        shared = _Shared(deque(work))
        with self._changed:
            self._shared.append(shared)
            self._changed.notify_all()
        while (part := self._part_of(shared)) is not None:
            part()
        with self._changed:
            while shared.running:
                self._changed.wait()
            self._shared.remove(shared)
        if shared.failure is not None:
            raise shared.failure
        if shared.left:
            raise KeyboardInterrupt

    def _part_of(self, shared: _Shared) -> Finish | None:
        with self._changed:
            return self._begin_part(shared)

    def _begin_part(self, shared: _Shared) -> Finish | None:
        if not shared.left or self._stop.is_set():
            return None
        shared.running += 1
        return partial(self._do_part, shared, shared.left.popleft())

    def _do_part(self, shared: _Shared, part: Finish) -> None:
        failure: BaseException | None = None
        try:
            part()
        except BaseException as error:
            failure = error
        with self._changed:
            shared.running -= 1
            shared.failure = shared.failure or failure
            if failure is not None:
                self._fail(failure)  # now, so that no thread goes on to fail at another task
            self._changed.notify_all()

    def _work(self) -> None:
        while (step := self._take()) is not None:
            try:
                step()
            except BaseException as error:
                self._fail(error)

    def _take(self) -> Finish | None:
        """The next step, of which those that finish a task come first."""
        with self._changed:
            while self._failure is None and self._left:
                if self._landed:
                    return partial(self._end, *self._landed.popleft())
                if self._ready:
                    return partial(self._begin, heapq.heappop(self._ready)[1])
                parts = map(self._begin_part, self._shared)
                part = next((part for part in parts if part is not None), None)
                if part is not None:
                    return part
                self._changed.wait()
            return None

    def _begin(self, task: Task) -> None:
        made = self._make(task)
        made[0].close(lambda: self._arrived(task, made))

    def _arrived(self, task: Task, made: Made) -> None:
        with self._changed:
            self._landed.append((task, made))
            self._changed.notify_all()  # one alone might be for who waits for parts to end

    def _end(self, task: Task, made: Made) -> None:
        landing, finish = made
        if landing.failure is not None:
            raise landing.failure
        finish()
        self._done(task)

    def _done(self, task: Task) -> None:
        with self._changed:
            self._left -= 1
            for user in self._users[task]:
                self._waiting[user] -= 1
                if not self._waiting[user]:
                    heapq.heappush(self._ready, (self._rank[user], user))
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._stop.set()
            self._changed.notify_all()
