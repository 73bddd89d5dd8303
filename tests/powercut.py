"""A power cut, simulated: what was not synced when it came may be lost.

Wraps `os` in this process. Entries of directories (made, renamed, linked, removed) are undone from
a random one on unless their directory was synced after; files that were not synced since they were
last written to lose a part of their content. That is weaker than what file systems do.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from mergebuild import files

PLACES: Final = ("cache", "build")
STASH: Final = Path("stash")

Undo = Callable[[], object]


class PowerCut:
    """Strikes at operation number `at`; everything that was there at the start is on the disk."""

    def __init__(self, at: int) -> None:
        self._at = at
        self._count = 0
        self._random = random.Random(at)
        self._entries: list[tuple[set[int], Undo]] = []
        self._synced = {path.stat().st_ino for place in PLACES for path in Path(place).rglob("*")}
        self._real: dict[str, Callable[..., Any]] = {}

    def install(self) -> None:
        shutil.rmtree(STASH, ignore_errors=True)
        STASH.mkdir()
        for name in ("open", "rename", "replace", "link", "unlink", "rmdir", "mkdir", "fsync"):
            self._wrap(os, name, getattr(self, f"_{name}"))
        for name in ("pwrite", "write"):
            self._wrap(os, name, self._written)
        self._wrap(files, "_exchange", self._exchanged)

    def _wrap(self, module: Any, name: str, note: Callable[..., Undo | None]) -> None:
        real = self._real[name] = getattr(module, name)

        def wrapped(*args: Any, **more: Any) -> Any:
            if name != "open":
                self._count += 1
                if self._count == self._at:
                    self._strike()
            undo = note(*args, **more)
            done = real(*args, **more)
            if undo is not None:
                parents = {os.stat(os.path.dirname(os.fspath(p)) or ".").st_ino for p in args[:2]
                           if isinstance(p, (str, os.PathLike))}  # fmt: skip
                self._entries.append((parents, undo))
            return done

        setattr(module, name, wrapped)

    def _open(self, path: Any, flags: int, *_: Any, **more: Any) -> Undo | None:
        new = flags & os.O_CREAT and more.get("dir_fd") is None and not os.path.lexists(path)
        return (lambda: self._real["unlink"](path)) if new else None

    def _rename(self, source: Any, target: Any) -> Undo:
        kept = self._keep(target)

        def undo() -> None:
            self._real["rename"](target, source)
            if kept is not None:
                self._real["rename"](kept, target)

        return undo

    _replace = _rename

    def _link(self, source: Any, target: Any, **_: Any) -> Undo:
        return lambda: self._real["unlink"](target)

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> Undo | None:
        kept = self._keep(path) if dir_fd is None else None
        return (lambda: self._real["rename"](kept, path)) if kept is not None else None

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> Undo | None:
        return (lambda: self._real["mkdir"](path)) if dir_fd is None else None

    def _mkdir(self, path: Any, *_: Any, **__: Any) -> Undo:
        return lambda: self._real["rmdir"](path)

    def _exchanged(self, one: Path, other: Path) -> Undo:
        return lambda: self._real["_exchange"](one, other)

    def _written(self, descriptor: int, *_: Any) -> None:
        self._synced.discard(os.fstat(descriptor).st_ino)

    def _fsync(self, descriptor: int) -> None:
        state = os.fstat(descriptor)
        if stat.S_ISDIR(state.st_mode):
            for parents, _ in self._entries:
                parents.discard(state.st_ino)
        else:
            self._synced.add(state.st_ino)

    def _keep(self, path: Any) -> Path | None:
        """Another name for a file that is about to lose its own."""
        if not os.path.isfile(path) or os.path.islink(path):
            return None
        kept = STASH / str(len(list(STASH.iterdir())))
        self._real["link"](path, kept)
        return kept

    def _strike(self) -> None:
        pending = [undo for parents, undo in self._entries if parents]
        lost = pending[self._random.randint(0, len(pending)) :]
        for undo in reversed(lost):
            with suppress(OSError):
                undo()
        for path in sorted(path for place in PLACES for path in Path(place).rglob("*")):
            state = path.lstat()
            if stat.S_ISREG(state.st_mode) and state.st_ino not in self._synced:
                self._forget(path, state.st_size)
        Path("hit").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def _forget(self, path: Path, size: int) -> None:
        os.chmod(path, 0o600)
        kind = self._random.randrange(3)
        if kind == 0:
            os.truncate(path, size // 2)
        elif kind == 1:
            with open(path, "r+b") as file:
                file.seek(size // 2)
                file.write(bytes(size - size // 2))
