"""How an included recipe is named.

    ./team.yaml                                   relative to the recipe that includes it
    hf://org/repo/path/recipe.yaml[@revision]     a file of a model on the Hub
    git+https://host/repo.git@revision#path       a file of a git repository
    git+file:///path/repo@revision#path

Pure: text to values, and what is wrong with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from mergebuild.errors import Location, RecipeError
from mergebuild.recipe.context import shown

_HUB: Final = re.compile(
    r"hf://([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95})/([^@]+)(?:@(.+))?", re.ASCII
)
_GIT: Final = re.compile(
    r"git\+([a-z]+://[^@#\s]*(?:@[^@#/\s]+/[^@#\s]*)?)@([^@#\s]+)#(.+)", re.ASCII
)
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}", re.ASCII)
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_FORM: Final = (
    "write ./recipe.yaml, hf://org/repo/path@revision or git+https://host/repo@commit#path"
)


@dataclass(frozen=True, slots=True)
class LocalFile:
    path: str


@dataclass(frozen=True, slots=True)
class HubFile:
    repo: str
    path: str
    revision: str | None


@dataclass(frozen=True, slots=True)
class GitFile:
    """`url` as git takes it."""

    url: str
    revision: str
    path: str


Reference: TypeAlias = LocalFile | HubFile | GitFile


def parse_reference(text: str, at: Location) -> Reference:
    """What a reference says. Raises RecipeError at its place."""
    if not text.isprintable() or "\\" in text or len(text) > 1000:
        raise RecipeError.of(f"{shown(text)} is not a reference to a recipe", at=at, hint=_FORM)
    if text.startswith("hf:"):
        match = _HUB.fullmatch(text)
        if match is None or (match[3] and not _is_revision(match[3])):
            hint = "the form is hf://org/repo/path/recipe.yaml@revision"
            raise RecipeError.of(f"{shown(text)} names no file on the Hub", at=at, hint=hint)
        return HubFile(match[1], _inside(match[2], text, at), match[3])
    if text.startswith("git"):
        return _git(text, at)
    if "://" in text or text.startswith(("/", "~")):
        raise RecipeError.of(f"{shown(text)} cannot be included", at=at, hint=_FORM)
    return LocalFile(text)


def _git(text: str, at: Location) -> GitFile:
    match = _GIT.fullmatch(text)
    hint = "the form is git+https://host/repo.git@commit#path/recipe.yaml"
    if match is None or not _is_revision(match[2]):
        raise RecipeError.of(f"{shown(text)} names no file in git", at=at, hint=hint)
    try:
        url = urlsplit(match[1])
        host = url.hostname
    except ValueError:
        raise RecipeError.of(f"{shown(text)} names no file in git", at=at, hint=hint) from None
    by_https = url.scheme == "https" and bool(host) and not str(host).startswith("-")
    by_loopback = url.scheme == "http" and host in _LOOPBACK
    by_file = url.scheme == "file" and not url.netloc and url.path.startswith("/")
    if not (by_https or by_loopback or by_file):
        said = f"git repositories are fetched by https and file, not as {shown(match[1])}"
        raise RecipeError.of(said, at=at, hint=hint)
    if url.username or url.password:
        said = "a reference holds no user and no password"
        raise RecipeError.of(said, at=at, hint="set up a credential helper of git")
    return GitFile(match[1], match[2], _inside(match[3], text, at))


def _inside(path: str, text: str, at: Location) -> str:
    """A path that stays within its repository, in its plainest form."""
    found = PurePosixPath(path)
    if found.is_absolute() or ".." in found.parts or not found.parts or ":" in path:
        hint = "name a file below its top folder"
        raise RecipeError.of(f"{shown(text)} leads out of its repository", at=at, hint=hint)
    return str(found)


def _is_revision(text: str) -> bool:
    sound = _REVISION.fullmatch(text) is not None
    return sound and ".." not in text and not text.endswith(("/", ".lock", "."))
