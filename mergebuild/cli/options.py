"""Options that several commands share, and what they are turned into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

import mergebuild.api as api
from mergebuild.cache import Cache
from mergebuild.errors import UsageError
from mergebuild.measures import parse_size, parse_time
from mergebuild.site import Remote, load_site

RecipeFile: TypeAlias = Annotated[Path, typer.Argument(help="A recipe or a mergekit file.")]
Nodes: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(help="Nodes: 'name', '+name' with its inputs, 'name+' with its users."),
]
Variables: TypeAlias = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Set a variable.")
]
Sources: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--source", metavar="NAME=PATH", help="Say where a source is."),
]
Outputs: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--out", metavar="DIR|NODE=DIR", help="Where the output, or a node's, goes."),
]
CacheFolder: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="The cache (default: $MERGEBUILD_CACHE, the site file's, or cache/).",
    ),
]
Strict: TypeAlias = Annotated[
    bool, typer.Option("--strict", help="Unknown parameters are errors in mergekit files too.")
]
Jobs: TypeAlias = Annotated[
    int | None, typer.Option("--jobs", "-j", min=0, help="Threads (default 0: one a core).")
]
ShardSize: TypeAlias = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Largest file of weights (default 5GB).")
]
Offline: TypeAlias = Annotated[
    bool, typer.Option("--offline", help="Make no request; what is missing is an error.")
]
Locked: TypeAlias = Annotated[
    bool, typer.Option("--locked", help="Fail if anything is not as RECIPE.lock says.")
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")]

RemoteUrls: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--remote",
        metavar="URL|NAME",
        help="A shared place: a folder, s3://, gs:// or hf:// (default: those of the site file).",
    ),
]
Signed: TypeAlias = Annotated[
    bool,
    typer.Option("--require-signatures", help="Of remotes, use only what a trusted key signed."),
]


def byte_size(text: str) -> int:
    """A size in bytes: a number with kB, MB, GB or without. Raises UsageError."""
    size = parse_size(text)
    if size is None:
        raise UsageError.of(f"'{text}' is not a size", hint="write it like 5GB or 500MB")
    return size


def time_span(text: str) -> float:
    """A time in seconds: a number with s, min, h, d or w. Raises UsageError."""
    span = parse_time(text)
    if span is None:
        raise UsageError.of(f"'{text}' is not a time", hint="write it like 30d or 12h")
    return span


def the_cache(given: Path | None) -> Cache:
    """The cache that --cache names, or the default one."""
    return Cache(given if given is not None else api.default_cache())


def the_remotes(given: Sequence[str] | None, require_signatures: bool = False) -> list[Remote]:
    """The remotes that --remote names, by URL or as the site file calls them, in order; without
    it all that the site file has."""
    said = load_site().remotes
    known = {remote.url: remote for remote in said} | {remote.name: remote for remote in said}
    chosen = [known.get(one, Remote(one, one)) for one in given] if given else list(said)
    return [
        replace(r, require_signatures=r.require_signatures or require_signatures)
        for r in dict.fromkeys(chosen)
    ]


def _here(place: str) -> str:
    """A place given on the command line: a path that is there is meant from here, not from the
    recipe."""
    path = Path(place).expanduser()
    return str(path.absolute()) if path.exists() else place


def pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """NAME=VALUE options as a mapping. Raises UsageError."""
    found: dict[str, str] = {}
    for text in given or ():
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise UsageError.of(f"{option} '{text}' is not of the form NAME=VALUE")
        if name in found:
            raise UsageError.of(f"{option} names '{name}' twice")
        found[name] = value
    return found


def source_places(given: Sequence[str] | None) -> dict[str, str]:
    """--source options as places by the names of sources. Raises UsageError."""
    return {name: _here(place) for name, place in pairs("--source", given).items()}


def places(given: Sequence[str] | None, outputs: Sequence[str]) -> dict[str, Path]:
    """--out options as node names to folders; a bare folder is for the only output."""
    found: dict[str, Path] = {}
    for text in given or ():
        name, separator, folder = text.partition("=")
        if separator and folder:
            found[name] = Path(folder)
        elif len(outputs) == 1:
            found[outputs[0]] = Path(text)
        else:
            raise UsageError.of(
                f"--out '{text}' does not say of which output: there are {', '.join(outputs)}",
                hint="use --out NODE=DIR",
            )
    return found
