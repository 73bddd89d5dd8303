"""One file of a git repository, through the git command.

Nothing is checked out: a commit is fetched alone, without its history, into a bare repository of
its own below the cache, and the file is read from there. What the repository holds is untrusted:
no hooks, no submodules, no transports but the one that is asked for, bounded time and size. Knows
no recipes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mergebuild.digest import fields_digest
from mergebuild.errors import RecipeError
from mergebuild.files import make_directories

COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_TIMEOUT: Final = 600.0
_MOST_BYTES: Final = 2 << 30
_SETTINGS: Final = (
    "core.hooksPath=/dev/null", "core.fsmonitor=false", "core.askPass=", "gc.auto=0",
    "maintenance.auto=false", "fetch.recurseSubmodules=false",
    "protocol.ext.allow=never", "submodule.recurse=false", "transfer.bundleURI=false",
)  # fmt: skip
# What git reads of the environment of a caller that is itself run by git.
_INHERITED: Final = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_EXTERNAL_DIFF", "GIT_TEMPLATE_DIR",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Repositories:
    """Commits that were fetched, below `folder`, which may be deleted at any time."""

    folder: Path
    offline: bool

    def resolve(self, url: str, revision: str) -> str:
        """The commit that a branch or tag is now: one request. Raises RecipeError."""
        if COMMIT.fullmatch(revision):
            return revision
        if self.offline:
            raise RecipeError.of(
                f"what '{revision}' of '{url}' is cannot be asked offline",
                hint="name the whole commit, or lock the recipe: mergebuild lock",
            )
        names = (f"refs/heads/{revision}", f"refs/tags/{revision}^{{}}", f"refs/tags/{revision}")
        said = _git(["ls-remote", "--", url, *names], url)
        rows = (line.partition("\t") for line in said.decode("utf-8", "replace").splitlines())
        found = {name: commit for commit, _, name in rows if COMMIT.fullmatch(commit)}
        for name in names:
            if name in found:
                return found[name]
        raise RecipeError.of(
            f"'{url}' has no branch or tag '{revision}'", hint="or name a whole commit"
        )

    def read(self, url: str, commit: str, path: str, limit: int) -> bytes:
        """A file of a commit, at most `limit` bytes of it. Raises RecipeError."""
        folder = self.folder / fields_digest("git", [("url", url), ("commit", commit)])
        if not folder.is_dir():
            if self.offline:
                raise RecipeError.of(
                    f"commit {commit} of '{url}' is not in the cache, and no request is to be made",
                    hint="build once with the network",
                )
            self._fetch(url, commit, folder)
        name = f"{commit}:{path}"
        size = _git(["cat-file", "-s", name], url, folder, missing=f"has no '{path}' at {commit}")
        if int(size) > limit:
            raise RecipeError.of(f"'{path}' of '{url}' has {int(size)} bytes: too many")
        return _git(["cat-file", "blob", name], url, folder, missing=f"'{path}' is not a file")

    def _fetch(self, url: str, commit: str, folder: Path) -> None:
        make_directories(self.folder)
        staged = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            _git(["init", "--quiet", "--bare", "--template=", str(staged)], url)
            fetch = ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules"]
            _git([*fetch, "--", url, commit], url, staged, missing=f"has no commit {commit}")
            found = _git(["rev-parse", "--verify", f"{commit}^{{commit}}"], url, staged)
            if found.decode().strip() != commit:
                raise RecipeError.of(f"'{url}' does not hold to commit {commit}")
            try:
                staged.rename(folder)
            except OSError:
                if not folder.is_dir():  # else a rival was first
                    raise
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def _git(
    arguments: Sequence[str], url: str, folder: Path | None = None, missing: str | None = None
) -> bytes:
    """What git writes. Raises RecipeError, about what is `missing` if git says that it is."""
    where = [f"--git-dir={folder}"] if folder is not None else []
    settings = [part for setting in _SETTINGS for part in ("-c", setting)]
    # The shell bounds the size of what is fetched; all arguments are handed on as they are.
    bounded = ["sh", "-c", f'ulimit -f {_MOST_BYTES // 512}; exec git "$@"', "git"]
    environment = {k: v for k, v in os.environ.items() if k not in _INHERITED}
    environment |= {
        "GIT_ALLOW_PROTOCOL": url.partition(":")[0],
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "LC_ALL": "C",
    }
    try:
        done = subprocess.run(
            [*bounded, *settings, *where, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RecipeError.of(f"'{url}' could not be fetched in {_TIMEOUT:.0f} s") from None
    if done.returncode == 0:
        return done.stdout
    said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["git failed"]
    if done.returncode == 127:
        raise RecipeError.of(f"'{url}' cannot be fetched: there is no git", hint="install git")
    text = said[-1].removeprefix("fatal: ").removeprefix("error: ")[:300]
    about = f"'{url}' {missing}" if missing is not None else f"'{url}' cannot be fetched"
    raise RecipeError.of(f"{about}: {text}")
