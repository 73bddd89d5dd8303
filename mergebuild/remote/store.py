"""Objects by name at a place that others share: what every kind of place has to do.

Nothing that is read is believed, nothing is listed, and nothing relies on one object being there
because another is. Knows no checkpoints.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

Progress = Callable[[int], None]
T = TypeVar("T")

ATTEMPTS: Final = 4
_PAUSE: Final = 0.2
CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 20.0
SLOWEST: Final = 1 << 16
"""Bytes a second below which a transfer is given up."""


class RemoteError(Exception):
    """Something of a remote is of no use; the text says why."""


class Absent(RemoteError):
    """There is no such object."""


class Damaged(RemoteError):
    """What came is not what was asked for."""


class Wrong(Damaged):
    """What came is of the right length, and of another content."""


class Unreachable(RemoteError):
    """The remote did not answer, or refused to."""


class Interrupted(Unreachable):
    """The remote did not answer as it might if asked again."""


class Store(ABC):
    """A place with objects. Every method may be called from any thread, and raises RemoteError.

    `parallel` is how many transfers at a time are of use.
    """

    parallel: int = 16

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def read(self, name: str, start: int, size: int) -> bytes:
        """Exactly `size` bytes from `start`; in memory is never more than that and a little."""

    @abstractmethod
    def read_all(self, name: str, limit: int) -> bytes:
        """A whole object; Damaged if it has more than `limit` bytes."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """The bytes of an object; None where there is none."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Put an object unless there is one, in one step; whether it was put."""

    @abstractmethod
    def replace(self, name: str, data: bytes) -> None:
        """Put an object, whatever was there."""

    @abstractmethod
    def upload(self, name: str, path: Path, size: int, progress: Progress) -> None:
        """Put a file of `size` bytes, going on with what an earlier try left if that can be."""


def patiently(call: Callable[[], T]) -> T:
    """Call again, after ever longer pauses, what was interrupted or came cut short."""
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except (Interrupted, Damaged):
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(_PAUSE * 2**attempt)
    raise AssertionError("not reached")


def deadline(size: int) -> float:
    """Seconds that moving so many bytes may take."""
    return READ_SECONDS + size / SLOWEST
