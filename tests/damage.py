"""Damage to files as it happens: bits that rot, files that are written through."""

from __future__ import annotations

import os
from pathlib import Path


def rot(path: Path, at: int = -1) -> None:
    """Flip a bit in place; no time of change tells of it."""
    before = os.stat(path)
    write_through(path, at)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def write_through(path: Path, at: int = -1) -> None:
    """Flip a bit in place, through every hard link, as a program that edits the file would."""
    mode = os.stat(path).st_mode
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    os.chmod(path, mode)
