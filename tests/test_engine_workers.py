"""Threads that run tasks, and help each other with the parts of one."""

from __future__ import annotations

from threading import Barrier, Event, get_ident

import pytest

from mergebuild.engine.ring import Landing
from mergebuild.engine.schedule import Schedule, Task
from mergebuild.engine.workers import Made, Workers

ONE: Task = ("node", "tensor")


def running(jobs: int, work: list[object]) -> tuple[Workers, Event]:
    """Workers whose one task shares this work."""
    stop = Event()

    def make(_: Task) -> Made:
        workers.share(work)  # type: ignore[arg-type]
        return Landing(), lambda: None

    workers = Workers(Schedule((ONE,), {ONE: ()}), make, jobs, stop)
    return workers, stop


def test_threads_without_a_task_do_parts() -> None:
    together, who = Barrier(3), set()

    def part() -> None:
        together.wait(60)  # returns only if three threads are here
        who.add(get_ident())

    workers, stop = running(3, [part] * 6)
    workers.run()
    assert len(who) == 3
    assert not stop.is_set()


def test_one_thread_does_all_parts_in_order() -> None:
    done: list[int] = []
    workers, _ = running(1, [lambda n=n: done.append(n) for n in range(9)])
    workers.run()
    assert done == list(range(9))


def test_a_part_that_fails_fails_the_task_after_those_that_run_have_ended() -> None:
    together, ended, begun = Barrier(2), [], []

    def slow() -> None:
        together.wait(60)
        ended.append(get_ident())

    def failing() -> None:
        together.wait(60)
        raise OSError("the disk is gone")

    workers, stop = running(2, [slow, failing, *[lambda: begun.append(1)] * 40])
    with pytest.raises(OSError, match="the disk is gone"):
        workers.run()
    assert stop.is_set()
    assert len(ended) == 1
    assert len(begun) < 40
