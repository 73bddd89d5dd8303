"""Writing past the page cache: a bounded ring of aligned buffers, emptied by threads of their own.

What is written is not read again soon, so the page cache would take memory for nothing, and time:
a copy, and new pages for every byte. Knows open files and positions; no tensors and no checkpoints.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import LifoQueue, SimpleQueue
from threading import Lock, Thread
from typing import Final

from mergebuild.files import PAGE, write_all, write_direct

SLOT: Final = (2 << 20) + PAGE
"""Bytes of a buffer. A quarter of them cost a third more time, twice as many gain nothing; the page
is for what a chunk of 2 MiB finds there of the page where the last one ended."""
SMALL: Final = 1 << 16
"""Bytes that are sooner written, to the page cache, than handed to another thread."""
LEAST: Final = 16
"""Buffers: what two threads can have under way, and as many filled meanwhile."""
THREADS: Final = 2

Then = Callable[[], None]


@dataclass(slots=True)
class Target:
    """A file opened twice: `direct` bypasses the page cache, -1 where that cannot be had."""

    descriptor: int
    direct: int = -1


class Landing:
    """What one tensor has on its way to the disk. `failure` is what went wrong first."""

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self._lock = Lock()
        self._under_way = 1
        self._then: Then | None = None

    def depart(self) -> None:
        """One more write is under way."""
        with self._lock:
            self._under_way += 1

    def arrive(self, failure: BaseException | None = None) -> None:
        """A write has ended."""
        with self._lock:
            self.failure = self.failure or failure
            self._under_way -= 1
            then = self._then if not self._under_way else None
        if then is not None:
            then()

    def close(self, then: Then) -> None:
        """No more writes will depart: call `then` when all have arrived, from whatever thread."""
        with self._lock:
            self._then = then
        self.arrive()


@dataclass(slots=True)
class _Parcel:
    slot: memoryview
    begin: int
    end: int
    target: Target
    position: int
    landing: Landing


class Ring:
    """Buffers and the threads that empty them, from any thread; to be closed.

    There have to be more buffers than threads that fill them: one that fails keeps its own.
    """

    def __init__(self, slots: int, threads: int = THREADS) -> None:
        slots = max(slots, LEAST)
        self._room = mmap.mmap(-1, slots * SLOT)
        view = memoryview(self._room)
        self._free: LifoQueue[memoryview] = LifoQueue()  # the last one used may still be in cache
        self._full: SimpleQueue[_Parcel | None] = SimpleQueue()
        for at in range(0, slots * SLOT, SLOT):
            self._free.put(view[at : at + SLOT])
        self._threads = [Thread(target=self._empty, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def stream(self, target: Target, position: int, landing: Landing) -> Stream:
        """For bytes that go to a file from `position` on."""
        return Stream(self, target, position, landing)

    def take(self) -> memoryview:
        """A free buffer, page-aligned; waits for one."""
        return self._free.get()

    def put(
        self,
        slot: memoryview,
        begin: int,
        end: int,
        target: Target,
        position: int,
        landing: Landing,
    ) -> None:
        """Have bytes [begin, end) of a buffer written to `position`; begin is it modulo a page."""
        landing.depart()
        parcel = _Parcel(slot, begin, end, target, position, landing)
        if end - begin <= SMALL:
            self._land(parcel)
        else:
            self._full.put(parcel)

    def _empty(self) -> None:
        while (parcel := self._full.get()) is not None:
            self._land(parcel)

    def _land(self, parcel: _Parcel) -> None:
        failure: BaseException | None = None
        try:
            _deliver(parcel)
        except BaseException as error:
            failure = error
        self._free.put(parcel.slot)
        parcel.landing.arrive(failure)

    def close(self) -> None:
        """After what is under way has been written."""
        for _ in self._threads:
            self._full.put(None)
        for thread in self._threads:
            thread.join()
        while not self._free.empty():
            self._free.get().release()
        with suppress(BufferError):  # a failed task may still hold a buffer
            self._room.close()


class Stream:
    """Consecutive bytes of a file, on their way into buffers; for one thread.

    Byte i of a buffer goes to byte i of a page and those that follow, so that what is sent off
    before the end is whole pages but for the first.
    """

    def __init__(self, ring: Ring, target: Target, position: int, landing: Landing) -> None:
        self._ring, self._target, self._landing = ring, target, landing
        self._position = position
        self._slot: memoryview | None = None
        self._begin = self._end = 0
        self._room: memoryview | None = None
        self._spare = memoryview(b"")

    def beside(self, offset: int) -> Stream:
        """For bytes of the same tensor that go so many bytes behind this one's first; for another
        thread, and only as long as nothing was written here."""
        return Stream(self._ring, self._target, self._position + offset, self._landing)

    def room(self, size: int) -> memoryview:
        """Where the next `size` bytes may be put, to be passed to `write`, which then copies
        nothing unless they are too many for a buffer."""
        if size > SLOT - PAGE:
            if len(self._spare) < size:
                self._spare = memoryview(bytearray(size))
            return self._spare[:size]
        slot = self._slot_with(size)
        self._room = slot[self._end : self._end + size]
        return self._room

    def write(self, data: memoryview) -> None:
        """Take bytes; `data` may be reused afterwards."""
        if data is self._room:
            self._end += len(data)
            self._room = None
            return
        while data:
            slot = self._slot_with(1)
            part = data[: SLOT - self._end]
            slot[self._end : self._end + len(part)] = part
            self._end += len(part)
            data = data[len(part) :]

    def flush(self) -> None:
        """Send off what is there."""
        if self._slot is not None:
            self._send(self._slot, self._end)
            self._slot = None

    def _slot_with(self, size: int) -> memoryview:
        """A buffer where so many bytes more have room."""
        slot, left = self._slot, b""
        if slot is not None and SLOT - self._end < size:
            whole = self._end // PAGE * PAGE
            left = bytes(slot[whole : self._end])
            self._send(slot, whole)
            slot = None
        if slot is None:
            slot = self._slot = self._ring.take()
            self._begin = self._position % PAGE
            self._end = self._begin + len(left)
            slot[self._begin : self._end] = left
        return slot

    def _send(self, slot: memoryview, end: int) -> None:
        self._ring.put(slot, self._begin, end, self._target, self._position, self._landing)
        self._position += end - self._begin


def _deliver(parcel: _Parcel) -> None:
    """Whole pages go past the cache, what is left at either end through it: a page there may be
    shared with the neighbouring tensor, which then is in the cache too. So does what is small."""
    data, target = parcel.slot[parcel.begin : parcel.end], parcel.target
    head = min(len(data), -parcel.position % PAGE)
    whole = (len(data) - head) // PAGE * PAGE
    if target.direct >= 0 and whole > SMALL:
        inside = data[head : head + whole]
        rest = write_direct(target.direct, inside, parcel.position + head)
        done = whole - len(rest)
    else:
        done = 0
    write_all(target.descriptor, data[:head], parcel.position)
    tail = head + done
    write_all(target.descriptor, data[tail:], parcel.position + tail)
