"""Running one thing and watching it: wall time, processor time, and how much memory it took."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_POLL: Final = 0.02
_STEP: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds; MiB at the peak, of which `anonymous` are no pages of files; what it said."""

    wall: float
    cpu: float = 0.0
    resident: float = 0.0
    anonymous: float = 0.0
    said: str = ""

    @property
    def building(self) -> float:
        """Seconds that mergebuild says its last node took, without start-up and planning."""
        found = re.search(r"^built .* in ([\d.]+) s", self.said, re.MULTILINE)
        return float(found[1]) if found else float("nan")


class Failed(Exception):
    """The command did not succeed."""


def command(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Run:
    """Run a command to its end. Raises Failed with the end of what it said."""
    with tempfile.TemporaryFile() as said:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        process = subprocess.Popen(
            list(arguments),
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            cwd=cwd,
        )
        resident, anonymous = _watch(process)
        wall = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        said.seek(0)
        text = said.read()[-2000:].decode(errors="replace")
        if process.returncode:
            raise Failed(f"{arguments[0]}: {text}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(wall, cpu, resident / 1024, anonymous / 1024, text)


def _watch(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Peaks in KiB, by looking at /proc until the process ends."""
    status = Path(f"/proc/{process.pid}/status")
    resident = anonymous = 0
    while process.poll() is None:
        try:
            fields = dict(
                line.split(":", 1) for line in status.read_text().splitlines() if ":" in line
            )
            resident = max(resident, int(fields["VmHWM"].split()[0]))
            now = sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem"))
            anonymous = max(anonymous, now)
        except (OSError, KeyError, ValueError):
            pass
        time.sleep(_POLL)
    return resident, anonymous


def floor(
    inputs: Sequence[Path], output: Path, threads: int, results: int = 1, *, sync: bool
) -> Run:
    """Read all inputs once, in step, and write as much as the first holds, once for each result,
    to a preallocated file.

    Each thread takes every so many-th step of 4 MiB.
    """
    size = inputs[0].stat().st_size
    began, cpu = time.perf_counter(), time.process_time()
    readers = [os.open(path, os.O_RDONLY) for path in inputs]
    writer = os.open(output, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.posix_fallocate(writer, 0, results * size)

    def work(thread: int) -> None:
        buffer = memoryview(bytearray(_STEP))
        for start in range(thread * _STEP, size, threads * _STEP):
            for reader in readers:
                count = os.preadv(reader, [buffer], start)
            for result in range(results):
                os.pwrite(writer, buffer[:count], result * size + start)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    if sync:
        os.fsync(writer)
    for descriptor in (*readers, writer):
        os.close(descriptor)
    wall = time.perf_counter() - began
    output.unlink()
    return Run(wall, time.process_time() - cpu)


def settle(folder: Path, size: int, *, ready: bool) -> None:
    """The same start for all: nothing left to be written, and free memory in one of two states.

    A guest gives pages that were free for a while back to its host, and touching one of those
    costs far more than touching one that was freed just now: 2 s a GiB where this was written.
    `ready` frees `size` bytes just now; else they are left to be given back.
    """
    os.sync()
    if not ready:
        time.sleep(6)
        return
    scratch = folder / "settle.bin"
    step = bytes(_STEP)
    with scratch.open("wb", buffering=0) as file:
        for _ in range(0, size, _STEP):
            file.write(step)
    scratch.unlink()


def warm(paths: Sequence[Path]) -> None:
    """Bring files into the page cache."""
    buffer = bytearray(_STEP)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
