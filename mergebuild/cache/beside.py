"""Where an output is put together: beside its place, under a name that says which run is at it."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mergebuild.cache.lease import alive
from mergebuild.cache.store import Cache

_MARK: Final = ".mergebuild-"


def beside(output: Path, run: str) -> Path:
    """The folder in which `run` puts an output together."""
    return output.with_name(f".{output.name}{_MARK}{run}")


def left_beside(cache: Cache, output: Path) -> Iterator[Path]:
    """What dead runs left there."""
    for folder in sorted(output.parent.glob(f".{glob.escape(output.name)}{_MARK}*")):
        if not alive(cache, folder.name.partition(_MARK)[2]):
            yield folder
