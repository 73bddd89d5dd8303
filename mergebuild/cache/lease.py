"""Who is building what: a lease a run, so that builders of the same do not work twice.

    leases/<run>.json   host, boot, process, since when, what it builds and what it reads

Nothing needs a lease to be right. A lease is live while its process is, which on this host is
known from the system; of another host's process, its heartbeat tells: the lease's time of change,
by the clock of the file system. What the dead leave needs no unlocking: it just does not count.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Final, Self

from mergebuild.cache.store import Cache, names_in
from mergebuild.files import make_directories, write_file

HEARTBEAT: Final = 5.0
EXPIRY: Final = 60.0
"""Seconds between heartbeats, and without one until another host's lease is dead."""
UNDECIDED: Final = 2.0
"""Seconds that who asked at the same time is given to see who goes first."""
_LOOK_AGAIN: Final = 0.01
_SUFFIX: Final = ".json"
_LARGEST: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class Holder:
    """A process and what it is at: keys that it `builds`, keys that it `reads` from the cache.

    `since` is when it asked, in ns since the epoch; `space` names its process ids' name space.
    `begun` is whether it is at it, rather than asking whether it may be.
    """

    run: str
    host: str
    boot: str
    space: str
    pid: int
    started: int
    since: int
    begun: bool = True
    builds: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()


class Lease:
    """The lease of this run; to be closed. Its heart beats in a thread of its own."""

    def __init__(self, cache: Cache, run: str) -> None:
        self._cache = cache
        self._run = run
        self._path = cache.leases / f"{run}{_SUFFIX}"
        self._lock = Lock()
        self._text: bytes | None = None
        self._since = 0
        self._ended = Event()
        self._heart = Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._heart.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._heart.join()
        self.drop()

    def take(self, builds: Collection[str], reads: Collection[str]) -> None:
        """Announce what is built and read from now on, in place of what was announced before."""
        self._announce(builds, reads, begun=True)

    def ask(self, builds: Collection[str], reads: Collection[str]) -> Holder | None:
        """Take the lease, unless a live builder of any of the same goes first: that one.

        Who is at it goes first, then who asked earlier. A lease is there only some time after its
        `since`, so that who asked earlier may come to see a later one that has not seen it: that
        one is waited for until it has begun or yielded.
        """
        mine = self._announce(builds, reads, begun=not builds)
        patience = time.monotonic() + UNDECIDED
        while True:
            others = [
                other
                for other in live(self._cache)
                if other.run != self._run and not set(other.builds).isdisjoint(builds)
            ]
            late = time.monotonic() > patience
            for other in others:
                if late or other.begun or (other.since, other.run) < (mine.since, mine.run):
                    return other
            if not others:
                if not mine.begun:
                    self._announce(builds, reads, begun=True)
                return None
            time.sleep(_LOOK_AGAIN)

    def _announce(self, builds: Collection[str], reads: Collection[str], *, begun: bool) -> Holder:
        self._since = self._since or time.time_ns()
        holder = _this_process(self._run, self._since, begun, tuple(builds), tuple(reads))
        make_directories(self._cache.leases)
        with self._lock:
            self._text = json.dumps(asdict(holder)).encode()
            write_file(self._path, self._text)
        return holder

    def drop(self) -> None:
        """Build nothing any more."""
        with self._lock:
            self._text = None
            self._path.unlink(missing_ok=True)
        self._since = 0

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            with self._lock, suppress(OSError):
                if self._text is None:
                    continue
                try:
                    os.utime(self._path)
                except FileNotFoundError:
                    write_file(self._path, self._text)  # swept by one who thought this dead


def live(cache: Cache) -> list[Holder]:
    """All holders that are at work, in the order of their runs. In doubt they are."""
    runs = [n.removesuffix(_SUFFIX) for n in names_in(cache.leases) if n.endswith(_SUFFIX)]
    return [holder for run in runs if (holder := _holder(cache, run)) and _lives(cache, holder)]


def alive(cache: Cache, run: str) -> bool:
    """Whether a run is at work."""
    holder = _holder(cache, run)
    return holder is not None and _lives(cache, holder)


def sweep_leases(cache: Cache) -> None:
    """Remove what dead runs announced."""
    running = {holder.run for holder in live(cache)}
    for name in names_in(cache.leases):
        if name.removesuffix(_SUFFIX) not in running:
            with suppress(OSError):
                (cache.leases / name).unlink()


def _holder(cache: Cache, run: str) -> Holder | None:
    """What a run announced; of a damaged lease, someone unknown who lives by heartbeat alone."""
    unknown = Holder(run, "", "", "", 0, 0, 0)
    try:
        with open(cache.leases / f"{run}{_SUFFIX}", "rb") as file:
            data = json.loads(file.read(_LARGEST))
        holder = Holder(
            run,
            host=str(data["host"]),
            boot=str(data["boot"]),
            space=str(data["space"]),
            pid=int(data["pid"]),
            started=int(data["started"]),
            since=int(data["since"]),
            begun=bool(data["begun"]),
            builds=tuple(map(str, data["builds"])),
            reads=tuple(map(str, data["reads"])),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return unknown
    return holder if 0 < holder.pid < 1 << 31 else unknown


def _lives(cache: Cache, holder: Holder) -> bool:
    this = _this_process("", 0, False, (), ())
    if (holder.host, holder.space) != (this.host, this.space) or not holder.boot:
        return _beats(cache.leases / f"{holder.run}{_SUFFIX}")
    if holder.boot != this.boot:
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return holder.started == _start_time(holder.pid)


def _beats(path: Path) -> bool:
    """Whether the last heartbeat is recent. A file made now tells the file system's own time."""
    try:
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            now = os.fstat(probe.fileno()).st_mtime
        return now - path.stat().st_mtime < EXPIRY
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _this_process(
    run: str, since: int, begun: bool, builds: tuple[str, ...], reads: tuple[str, ...]
) -> Holder:
    pid = os.getpid()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot = space = ""
    host = socket.gethostname()
    return Holder(run, host, boot, space, pid, _start_time(pid), since, begun, builds, reads)


def _start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 where that cannot be known."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
