"""Ending on a signal: once cleanly, after what is running; twice at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

INTERRUPTED: Final = 130
_SHOW_CURSOR: Final = b"\x1b[?25h\r\n"
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible() -> Iterator[None]:
    """While open, the first SIGINT or SIGTERM raises KeyboardInterrupt and the second ends the
    process; both exit with 130. A signal that is ignored stays ignored, and so is the second one
    where all has ended after the first: it must not turn 130 into something else."""
    seen = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            if sys.stderr.isatty():
                os.write(2, _SHOW_CURSOR)
            os._exit(INTERRUPTED)
        seen = True
        if not sys.stderr.isatty():  # the live view would draw over it
            os.write(2, b"interrupted: ending (once more: at once)\n")
        raise KeyboardInterrupt

    former = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS:
        if former[number] != signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield
    finally:
        if seen:
            os.write(
                2, b"interrupted: what was finished is kept, the same command goes on from it\n"
            )
        for number, handler in former.items():
            signal.signal(number, signal.SIG_IGN if seen else handler)
