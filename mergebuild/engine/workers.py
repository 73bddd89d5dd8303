"""Running scheduled tasks on threads: each as soon as what it needs is done, in scheduled order."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable
from threading import Condition, Event, Thread

from mergebuild.engine.schedule import Schedule, Task


class Workers:
    """Runs every task of a schedule once. After the first failure no task is started, and `stop`
    tells those that are running to end."""

    def __init__(
        self, schedule: Schedule, run: Callable[[Task], None], jobs: int, stop: Event
    ) -> None:
        self._stop = stop
        self._run = run
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

    def _work(self) -> None:
        while (task := self._take()) is not None:
            try:
                self._run(task)
            except BaseException as error:
                self._fail(error)
            else:
                self._done(task)

    def _take(self) -> Task | None:
        with self._changed:
            while self._failure is None and self._left:
                if self._ready:
                    self._left -= 1
                    return heapq.heappop(self._ready)[1]
                self._changed.wait()
            return None

    def _done(self, task: Task) -> None:
        with self._changed:
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
