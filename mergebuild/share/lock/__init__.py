"""`RECIPE.lock`: what a recipe was resolved to, so that the next build, and the next team's, is
made of the same: commits, files, contents, included recipes, keys and outputs.

    model.py     the values         text.py   the file, read and written
    make.py      from a plan        drift.py  what differs between two
    contents.py  SHA-256 of a node  hold.py   builds, held to a lock
"""

from mergebuild.share.lock.drift import drift
from mergebuild.share.lock.hold import (
    check_portable,
    commits,
    hold,
    hold_includes,
    hold_outputs,
    pins,
    without,
)
from mergebuild.share.lock.make import make_lock
from mergebuild.share.lock.model import (
    Lock,
    LockedInclude,
    LockedNode,
    LockedOutput,
    LockedSource,
)
from mergebuild.share.lock.text import lock_path, lock_text, read_lock

__all__ = [
    "Lock",
    "LockedInclude",
    "LockedNode",
    "LockedOutput",
    "LockedSource",
    "check_portable",
    "commits",
    "drift",
    "hold",
    "hold_includes",
    "hold_outputs",
    "lock_path",
    "lock_text",
    "make_lock",
    "pins",
    "read_lock",
    "without",
]
