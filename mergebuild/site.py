"""The site file `mergebuild.yaml`: what holds on this machine or in this project, so that recipes
stay free of local paths.

    cache: ~/merges/cache
    sources: {mistralai/Mistral-7B-v0.1: /data/mistral, base: ./models/base}
    remotes: [{name: team, url: s3://bucket/merges, require_signatures: true, push: true}]
    defaults: {jobs: 8, shard_size: 2GB}

One is the user's, one the project's: found in the working directory or above it, up to the root of
its repository or the user's home. The project's says more than the user's, but cannot take a demand
for signatures away. Owns its language and where it is found; must not know what is done with it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Final

from mergebuild.errors import Location
from mergebuild.measures import parse_size
from mergebuild.recipe import fields
from mergebuild.recipe.context import Context, shown
from mergebuild.recipe.text import read_text
from mergebuild.recipe.tree import Entry, Fields, Leaf, Tree
from mergebuild.recipe.yaml_tree import parse, report_repeated

NAME: Final = "mergebuild.yaml"
_KEYS: Final = ("cache", "sources", "remotes", "defaults")
_REMOTE: Final = ("name", "url", "require_signatures", "push")
_DEFAULTS: Final = ("jobs", "chunk", "shard_size")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.+", re.ASCII)
_REPO: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_HINTS: Final = dict.fromkeys(
    ("mergebuild", "nodes", "vars", "outputs", "merge_method"),
    f"'{NAME}' is the site file; give a recipe another name",
)


@dataclass(frozen=True, slots=True)
class Remote:
    """A place that checkpoints are fetched from and, with `push`, sent to. `url` has a scheme, or
    is an absolute path."""

    name: str
    url: str
    require_signatures: bool = False
    push: bool = False
    at: Location | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds where the command line says nothing: threads, blocks of 65,536 elements evaluated
    at a time, and bytes of the largest file of weights."""

    jobs: int | None = None
    chunk: int | None = None
    shard_size: int | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """What the site files say together. `sources` maps names of sources to where they are here,
    `files` are those that were read, the project's first."""

    cache: Path | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    remotes: tuple[Remote, ...] = ()
    defaults: Defaults = field(default_factory=Defaults)
    files: tuple[Path, ...] = ()


def load_site(directory: Path | None = None) -> Site:
    """The site of a working directory. Raises RecipeError with every mistake in its files."""
    ctx = Context()
    found = [_read(path, ctx) for path in site_files(directory or Path.cwd())]
    if ctx.problems:
        ctx.stop()
    site = Site()
    for one in reversed(found):
        site = _over(one, site)
    return site


def site_files(directory: Path) -> list[Path]:
    """The project's and the user's site file, as far as they are there."""
    return [path for path in (_project(directory), user_folder() / NAME) if path and path.exists()]


def user_folder() -> Path:
    """The user's configuration folder: `$XDG_CONFIG_HOME/mergebuild`."""
    said = os.environ.get("XDG_CONFIG_HOME")
    return (Path(said) if said else Path("~/.config").expanduser()) / "mergebuild"


def project_folder(directory: Path) -> Path:
    """The folder of the project's site file; the directory itself if there is none."""
    found = _project(directory)
    return found.parent if found is not None else directory


def _project(directory: Path) -> Path | None:
    """The nearest site file. What lies above the repository or the home may be anybody's."""
    home = Path("~").expanduser()
    climb = [directory, *directory.parents]
    tops = (place for place in climb if place == home or (place / ".git").exists())
    top = next(tops, directory)
    below = climb[: climb.index(top) + 1]
    return next((place / NAME for place in below if (place / NAME).exists()), None)


def _over(project: Site, user: Site) -> Site:
    """What two sites say together; the first wins."""
    strict = {entry for r in user.remotes if r.require_signatures for entry in (r.name, r.url)}
    remotes = [
        replace(
            r, require_signatures=r.require_signatures or not strict.isdisjoint((r.name, r.url))
        )
        for r in project.remotes
    ]
    named = {r.name for r in remotes}
    remotes += [r for r in user.remotes if r.name not in named]
    chosen = {
        one.name: getattr(project.defaults, one.name) or getattr(user.defaults, one.name)
        for one in fields_of(Defaults)
    }
    return Site(
        cache=project.cache or user.cache,
        sources={**user.sources, **project.sources},
        remotes=tuple(remotes),
        defaults=Defaults(**chosen),
        files=project.files + user.files,
    )


def _read(path: Path, ctx: Context) -> Site:
    documents = parse(read_text(path, "the site file"), str(path), ctx)
    if not documents:
        return Site(files=(path,))
    if len(documents) > 1:
        ctx.error("a site file is a single document", documents[1].at, "delete the line '---'")
    if isinstance(documents[0], Fields):
        report_repeated(documents[0], ctx)
    keys = fields.entries(documents[0], "the site file", ctx, _KEYS, _HINTS)
    directory = path.absolute().parent
    cache = fields.text(keys["cache"].value, "'cache'", ctx) if "cache" in keys else None
    return Site(
        cache=_path(cache, keys["cache"].value, directory, ctx) if cache is not None else None,
        sources=_sources(keys["sources"].value, directory, ctx) if "sources" in keys else {},
        remotes=_remotes(keys["remotes"].value, directory, ctx) if "remotes" in keys else (),
        defaults=_defaults(keys["defaults"].value, ctx) if "defaults" in keys else Defaults(),
        files=(path,),
    )


def _path(text: str, tree: Tree, directory: Path, ctx: Context) -> Path:
    """A path relative to the site file, made absolute."""
    try:
        return Path(os.path.normpath(directory / Path(text).expanduser()))
    except (RuntimeError, ValueError):
        ctx.error(f"{shown(text)} is not a path that can be found", tree.at, "name it in full")
        return directory


def _sources(tree: Tree, directory: Path, ctx: Context) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, entry in fields.entries(tree, "'sources'", ctx).items():
        what = f"the place of source {shown(name)}"
        if fields.is_null(entry.value):
            ctx.error(
                f"source {shown(name)} has no place", entry.at, "say where it is, or delete it"
            )
        elif place := fields.text(entry.value, what, ctx):
            found[name] = _place(place, entry.value, directory, ctx)
    return found


def _place(text: str, tree: Tree, directory: Path, ctx: Context) -> str:
    """A model on the Hub as it is written, anything else as a path. A path that exists wins."""
    path = _path(text, tree, directory, ctx)
    repo = _REPO.fullmatch(re.split("[@+]", text)[0]) is not None
    return text if repo and not path.exists() else str(path)


def _remotes(tree: Tree, directory: Path, ctx: Context) -> tuple[Remote, ...]:
    found: dict[str, Remote] = {}
    for item in fields.items(tree, "'remotes'", ctx):
        keys = fields.entries(item, "a remote", ctx, _REMOTE)
        before = len(ctx.problems)
        for key in ("name", "url"):
            if key not in keys and isinstance(item, Fields):
                ctx.error(f"a remote has no '{key}'", item.at, "write {name: team, url: s3://…}")
        name = fields.text(keys["name"].value, "'name'", ctx) if "name" in keys else None
        url = fields.text(keys["url"].value, "'url'", ctx) if "url" in keys else None
        if name is None or url is None or len(ctx.problems) > before:
            continue
        if not _NAME.fullmatch(name):
            hint = "use letters, digits, '.', '_' and '-'"
            ctx.error(f"{shown(name)} is not a name for a remote", keys["name"].value.at, hint)
        elif name in found:
            hint = "give each remote a name of its own"
            ctx.error(f"two remotes are named '{name}'", keys["name"].value.at, hint)
        if not _URL.fullmatch(url):
            url = str(_path(url, keys["url"].value, directory, ctx))
        signed, push = _flag(keys, "require_signatures", ctx), _flag(keys, "push", ctx)
        found[name] = Remote(name, url, signed, push, item.at)
    return tuple(found.values())


def _flag(keys: Mapping[str, Entry], key: str, ctx: Context) -> bool:
    return key in keys and fields.truth(keys[key].value, f"'{key}'", ctx) is True


def _defaults(tree: Tree, ctx: Context) -> Defaults:
    keys = fields.entries(tree, "'defaults'", ctx, _DEFAULTS)
    return Defaults(
        jobs=_whole(keys, "jobs", ctx),
        chunk=_whole(keys, "chunk", ctx),
        shard_size=_size(keys["shard_size"].value, ctx) if "shard_size" in keys else None,
    )


def _whole(keys: Mapping[str, Entry], key: str, ctx: Context) -> int | None:
    return fields.whole(keys[key].value, f"'{key}'", ctx, low=1) if key in keys else None


def _size(tree: Tree, ctx: Context) -> int | None:
    size = parse_size(tree.text) if isinstance(tree, Leaf) else None
    if size is None:
        said = f"'shard_size' must be a size, not {fields.described(tree)}"
        ctx.error(said, tree.at, "write it like 5GB or 500MB")
    return size
