"""From a reference in a recipe to the text of the recipe that it means."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Final

from mergebuild.checkpoint.hub import Hub
from mergebuild.checkpoint.regular import read_small
from mergebuild.errors import CheckpointError, Location, MergebuildError, RecipeError
from mergebuild.include.git import Repositories
from mergebuild.include.reference import (
    GitFile,
    HubFile,
    LocalFile,
    parse_reference,
)
from mergebuild.recipe.context import shown
from mergebuild.recipe.origin import Fetched, Origin
from mergebuild.recipe.text import decoded

LARGEST: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches for the recipe in `directory`. `commits` are what references are known to mean, such
    as by a lock: those are not asked for."""

    directory: Path
    hub: Hub
    repositories: Repositories
    commits: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, text: str, origin: Origin, at: Location) -> Fetched:
        """The recipe that a reference means. Raises RecipeError or CheckpointError at its place."""
        reference = parse_reference(text, at)
        try:
            if isinstance(reference, LocalFile):
                return self._beside(reference.path, origin, at)
            if origin.base and isinstance(reference, GitFile) and _is_local(reference):
                raise RecipeError.of(
                    f"a recipe from elsewhere cannot name {shown(text)}, which is on this machine"
                )
            return self._elsewhere(text, reference)
        except MergebuildError as error:
            raise type(error)(*(replace(p, at=p.at or at) for p in error.problems)) from error

    def _beside(self, path: str, origin: Origin, at: Location) -> Fetched:
        """A file relative to the recipe that names it: on this machine, or in its repository."""
        joined = posixpath.normpath(posixpath.join(posixpath.dirname(origin.path), path))
        if not origin.base:
            place = self.directory / joined
            file = os.path.normpath(place)
            try:
                data = read_small(place, LARGEST)
            except CheckpointError as error:
                raise RecipeError(*error.problems) from error
            text = decoded(data, file, "a recipe")
            return Fetched(joined, Origin("", joined, file), None, text)
        if joined.startswith(("..", "/")):
            raise RecipeError.of(f"{shown(path)} leads out of its repository", at=at)
        return self._at(_based(origin.base, joined))

    def _elsewhere(self, text: str, reference: HubFile | GitFile) -> Fetched:
        """A file of a repository, whose commit is found out first."""
        known = self.commits.get(text)
        if isinstance(reference, HubFile):
            commit = self.hub.commit(reference.repo, reference.revision, known)
        else:
            commit = known or self.repositories.resolve(reference.url, reference.revision)
        found = replace(reference, revision=commit)
        return replace(self._at(found), reference=text)

    def _at(self, reference: HubFile | GitFile) -> Fetched:
        """A file at a commit."""
        commit = str(reference.revision)
        if isinstance(reference, HubFile):
            base = f"hf://{reference.repo}@{commit}"
            file = f"hf://{reference.repo}/{reference.path}@{commit[:12]}"
            whole = f"hf://{reference.repo}/{reference.path}@{commit}"
            path = self.hub.file(reference.repo, commit, reference.path, LARGEST)
            data = read_small(path, LARGEST)
        else:
            base = f"git+{reference.url}@{commit}"
            file = f"git+{reference.url}@{commit[:12]}#{reference.path}"
            whole = f"{base}#{reference.path}"
            data = self.repositories.read(reference.url, commit, reference.path, LARGEST)
        text = decoded(data, file, "a recipe")
        return Fetched(whole, Origin(base, reference.path, file), commit, text)


def _based(base: str, path: str) -> HubFile | GitFile:
    """A file in the repository at a commit that a recipe came from."""
    place, _, commit = base.rpartition("@")
    if base.startswith("hf://"):
        return HubFile(place.removeprefix("hf://"), str(PurePosixPath(path)), commit)
    return GitFile(place.removeprefix("git+"), commit, str(PurePosixPath(path)))


def _is_local(reference: GitFile) -> bool:
    return not reference.url.startswith("https:")
