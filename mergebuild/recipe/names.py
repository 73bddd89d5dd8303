"""Names of nodes and folders of outputs: what may become part of a path.

A recipe is untrusted, so neither can leave its folder.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Final

from mergebuild.errors import Location
from mergebuild.recipe.context import Context, shown

LONGEST: Final = 100
REPO: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
"""A name on the Hub."""
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


def check(name: str, at: Location, ctx: Context) -> bool:
    """Whether this can name a node."""
    if NAME.fullmatch(name) and len(name) <= LONGEST and ".." not in name:
        return True
    hint = f"use letters, digits, '.', '_' and '-', at most {LONGEST}, and no '..'"
    ctx.error(f"{shown(name)} is not a name for a node", at, hint)
    return False


def from_stem(stem: str) -> str:
    """A file's stem made into a name."""
    name = re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._-]+", "-", stem))
    return name.lstrip("._-")[:LONGEST] or "merge"


def folder(text: str, at: Location, ctx: Context) -> Path | None:
    """An output's folder: relative, and below the working directory."""
    path = PurePosixPath(text)
    leaves = path.is_absolute() or ".." in path.parts or text.startswith("~")
    if leaves or not path.parts or "\\" in text or not text.isprintable():
        hint = "give a relative folder without '..', for instance 'build/name'"
        ctx.error(f"output folder {shown(text)} is not below the working directory", at, hint)
        return None
    return Path(path)
