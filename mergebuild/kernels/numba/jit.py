"""How loops become machine code, and where that code is kept from one run to the next.

One typed door to numba, which carries no types. The code is kept in a folder named by the digest
of all sources of this package and of the modules beside it, whose constants loops contain: numba
itself looks at the file of a loop only, not at what it calls or names, and would go on using the
old.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Final, ParamSpec, TypeVar, cast

import numba

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_LOCK: Final = Lock()


def jit(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Compile on the first call. Runs without the GIL; floats are IEEE's, neither reordered nor
    contracted; indices are not checked."""
    return _compiled(function, False)


def jit_near(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """The same of what is only about right: a product and a sum may be contracted to one rounding,
    as the processor has it. No result may depend on its last bits."""
    return _compiled(function, {"contract"})


def _compiled(
    function: Callable[_Parameters, _Result], fastmath: bool | set[str]
) -> Callable[_Parameters, _Result]:
    options: dict[str, Any] = {"nogil": True, "fastmath": fastmath, "error_model": "numpy"}
    folder = code_folder()
    if folder is None:
        return cast("Callable[_Parameters, _Result]", numba.njit(**options)(function))
    with _LOCK:  # numba chooses the folder when it wraps the function
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(folder)
        try:
            compiled = numba.njit(cache=True, **options)(function)
        finally:
            numba.config.CACHE_DIR = before
    return cast("Callable[_Parameters, _Result]", compiled)


@cache
def code_folder() -> Path | None:
    """Where compiled code is kept; None if nothing can be written, so that it lives in memory."""
    name = f"mergebuild-{_sources()}"
    for parent in _candidates():
        folder = parent / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return None


def _candidates() -> Iterator[Path]:
    """Folders to try: the one that the user names, beside the sources, the user's own."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    if named:
        yield Path(named)
    yield Path(__file__).parent / "__pycache__"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    yield Path(home) / "mergebuild"


def _sources() -> str:
    digest = hashlib.blake2b(digest_size=8)
    here = Path(__file__).parent
    for file in sorted((*here.glob("*.py"), *here.parent.glob("*.py"))):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
