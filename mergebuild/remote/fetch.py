"""Downloading bytes whose SHA-256 is known: by ranges, several at a time, verified on the way."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from types import TracebackType
from typing import Final, Self

from mergebuild.errors import BuildError
from mergebuild.remote.claim import Blob
from mergebuild.remote.remotes import AHEAD, RANGE, RemoteTensor
from mergebuild.remote.store import RemoteError, Store, Wrong, patiently

_TRIES: Final = 2

Write = Callable[[int, memoryview], None]
"""Told of every piece in order, with its offset within what is fetched."""


class Missed(BuildError):
    """A tensor that a plan would fetch cannot be had; planned again, a build does without."""

    def __init__(self, tensor: RemoteTensor, why: RemoteError) -> None:
        super().__init__(*BuildError.of(f"remote '{tensor.remote}': {why}").problems)
        self.tensor = tensor
        self.why = why


class Downloads:
    """Threads that download; to be closed. Memory is bounded by `AHEAD` ranges a caller."""

    def __init__(self, parallel: int = 16) -> None:
        self._pool = ThreadPoolExecutor(parallel, "fetch")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def fetch(
        self, store: Store, blob: Blob, start: int, size: int, sha256: str, write: Write
    ) -> None:
        """Write the bytes of a blob from `start`, whose digest must be `sha256`.

        What was written when this raises RemoteError is worth nothing.
        """
        digest = hashlib.sha256()
        at = 0
        with closing(self._pieces(store, blob.name, start, size)) as pieces:
            for piece in pieces:
                digest.update(piece)
                write(at, memoryview(piece))
                at += len(piece)
        if digest.hexdigest() != sha256:
            raise Wrong(f"'{blob.name}' is not what it is said to be")

    def _pieces(self, store: Store, name: str, start: int, size: int) -> Generator[bytes]:
        """Ranges in order, the next few of them under way."""

        def ask(begin: int) -> Future[bytes]:
            count = min(RANGE, start + size - begin)
            return self._pool.submit(patiently, lambda: store.read(name, begin, count))

        waiting: deque[Future[bytes]] = deque()
        begins = iter(range(start, start + size, RANGE))
        try:
            for begin in begins:
                waiting.append(ask(begin))
                if len(waiting) == AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def twice(call: Callable[[], None]) -> None:
    """Fetch once more what came wrong: it may have been the way."""
    for attempt in range(_TRIES):
        try:
            return call()
        except Wrong:
            if attempt == _TRIES - 1:
                raise
