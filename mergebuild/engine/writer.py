"""Writing one tensor: to where it belongs in a file, in memory or both, digested on the way."""

from __future__ import annotations

from threading import Event, Lock

from mergebuild.checkpoint.dtypes import itemsize
from mergebuild.digest import BLOCK, ContentDigest
from mergebuild.engine.ring import Landing, Stream


class Writer:
    """Takes one tensor, ascending, and sends it to its places; with `part`, several runs of it.

    `landing` tells when it is there; `held` is its place in memory, `stream` that in a file. `stop`
    is set when the build is to end.
    """

    def __init__(
        self,
        dtype: str,
        shape: tuple[int, ...],
        stop: Event,
        landing: Landing,
        stream: Stream | None,
        held: memoryview | None,
    ) -> None:
        self.itemsize = itemsize(dtype)
        self.landing = landing
        self._dtype, self._shape = dtype, shape
        self._digest = ContentDigest(dtype, shape)
        self._stop, self._stream, self._held = stop, stream, held
        self._room: memoryview | None = None
        self._parts: dict[int, Writer] = {}
        self._lock = Lock()

    @property
    def unit(self) -> int:
        """Parts begin at multiples of so many elements, which are digested as one."""
        return BLOCK // self.itemsize

    def part(self, start: int) -> Writer:
        """A writer for any thread, of what begins at element `start`; to be flushed."""
        stream = self._stream.beside(start * self.itemsize) if self._stream is not None else None
        part = Writer(self._dtype, self._shape, self._stop, self.landing, stream, self._held)
        with self._lock:
            self._parts[start] = part
        return part

    def room(self, start: int, size: int) -> memoryview:
        """Where the next `size` bytes, which begin at an element offset, are best put: passed to
        `write` then, they are where they belong already."""
        if self._held is not None:
            self._room = self._held[start * self.itemsize :][:size]
        else:
            assert self._stream is not None
            self._room = self._stream.room(size)
        return self._room

    def write(self, start: int, data: memoryview) -> None:
        """Take raw bytes at an element offset. KeyboardInterrupt if the build is to stop."""
        if self._stop.is_set():
            raise KeyboardInterrupt
        if self.landing.failure is not None:
            raise self.landing.failure
        if data is not self._room:
            data = data.cast("B")
            if self._held is not None:
                at = start * self.itemsize
                self._held[at : at + len(data)] = data
        self._digest.update(data)
        if self._stream is not None:
            self._stream.write(data)

    def flush(self) -> None:
        """Nothing more will come: see what there is on its way."""
        if self._stream is not None:
            self._stream.flush()

    def finish(self) -> str:
        """All is written, by this writer or by its parts. Returns the content digest."""
        self.flush()
        for start in sorted(self._parts):
            self._digest.extend(self._parts[start]._digest)
        return self._digest.hexdigest()
