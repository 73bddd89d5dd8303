"""Threads that run tasks, and help each other with the parts of one."""

from __future__ import annotations

import time
from threading import Barrier, Event, Thread, get_ident

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


def test_a_part_that_fails_stops_the_others() -> None:
    together, told = Barrier(2), []

    def going_on() -> None:
        together.wait(60)
        told.append(stop.wait(10))

    def failing() -> None:
        together.wait(60)
        raise OSError("the disk is gone")

    workers, stop = running(2, [going_on, failing])
    with pytest.raises(OSError, match="the disk is gone"):
        workers.run()
    assert told == [True]


@pytest.mark.parametrize("jobs", [1, 3])
def test_no_part_begins_when_the_build_is_to_stop(jobs: int) -> None:
    together, begun = Barrier(jobs), []

    def part() -> None:
        begun.append(1)
        together.wait(60)
        stop.set()

    workers, stop = running(jobs, [part] * 60)
    with pytest.raises(KeyboardInterrupt):
        workers.run()
    assert len(begun) == jobs


def test_what_has_landed_is_finished_while_a_task_waits_for_its_parts() -> None:
    """Whoever is woken first, one that has no task has to see it."""
    finished, begun, idle = Event(), Barrier(2), Event()
    landing = Landing()
    other: Task = ("node", "other")

    def long() -> None:
        begun.wait(60)
        assert finished.wait(10)

    def make(task: Task) -> Made:
        if task == other:
            return landing, finished.set
        workers.share([begun_by_another, long])
        return Landing(), lambda: None

    def begun_by_another() -> None:
        begun.wait(60)
        idle.set()

    workers = Workers(Schedule((other, ONE), {other: (), ONE: ()}), make, 3, Event())
    landing.depart()

    def land() -> None:
        assert idle.wait(60)
        time.sleep(0.2)  # until two wait, of whom the one with the task was there first
        landing.arrive()

    lander = Thread(target=land)
    lander.start()
    workers.run()
    lander.join()
