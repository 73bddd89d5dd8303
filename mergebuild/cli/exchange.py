"""Commands that exchange recipes with others: import, export."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import mergebuild.api as api
from mergebuild.checkpoint.hub import is_repo
from mergebuild.cli.options import RecipeFile, Sources, Variables, pairs
from mergebuild.cli.sinks import complain
from mergebuild.errors import RecipeError, UsageError
from mergebuild.files import write_file
from mergebuild.methods import registry
from mergebuild.share.exported import mergekit_file
from mergebuild.share.imported import import_merge
from mergebuild.share.origins import Origin, from_hub, from_path
from mergebuild.site import Site

_HUB = "https://huggingface.co/"

OutFile = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help="Where to write it (default: to stdout)."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]


class Language(StrEnum):
    """What a recipe can be exported to."""

    MERGEKIT = "mergekit"


def import_(
    card: Annotated[
        str,
        typer.Argument(
            metavar="CARD_OR_REPO",
            help="A model card, a mergekit file, a model's folder, or org/name on the Hub.",
        ),
    ],
    others: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CARD_OR_REPO]...", help="Those of its inputs, where they are not found."
        ),
    ] = None,
    out: OutFile = None,
    follow: Annotated[
        bool, typer.Option(help="Look for the cards of its inputs, too, here and on the Hub.")
    ] = True,
    force: Force = False,
) -> None:
    """Turn a published merge, and the merges that it is made from, into one recipe."""
    _check_free(out, force)
    found = [_origin(one) for one in (card, *(others or ()))]
    place = out.parent if out is not None else Path()
    imported = import_merge(found[0], found[1:], place, registry(), follow=follow)
    for note in imported.notes:
        complain(f"note: {note}")
    _write(imported.text, out)


def _origin(named: str) -> Origin:
    methods = registry()
    path = Path(named).expanduser()
    if path.exists():
        origin = from_path(path, methods)
    else:
        repo, _, revision = named.removeprefix(_HUB).rstrip("/").partition("@")
        if not is_repo(repo):
            raise UsageError.of(
                f"'{named}' is neither a file, a folder nor a model on the Hub",
                hint="name a README.md, a mergekit_config.yml, a model's folder or org/name",
            )
        origin = from_hub(repo, revision or None, methods)
    if origin is None:
        raise RecipeError.of(
            f"'{named}' holds no mergekit configuration",
            hint="a card has one in a fenced block of YAML with 'merge_method:'",
        )
    return origin


def export(
    recipe: RecipeFile,
    node: Annotated[str | None, typer.Argument(help="A node (default: all outputs).")] = None,
    format_: Annotated[
        Language, typer.Option("--format", "-f", help="What to write.")
    ] = Language.MERGEKIT,
    out: OutFile = None,
    set_: Variables = None,
    source: Sources = None,
    force: Force = False,
) -> None:
    """Write a recipe as a file of several documents that mergekit-multi runs."""
    _check_free(out, force)
    loaded = api.load(
        recipe,
        variables=pairs("--set", set_),
        sources=pairs("--source", source),
        site=Site(),  # what is written is for elsewhere
    )
    exported = mergekit_file(loaded, registry(), node)
    for note in exported.notes:
        complain(f"note: {note}")
    _write(exported.text, out)


def _check_free(out: Path | None, force: bool) -> None:
    if out is not None and out.exists() and not force:
        raise UsageError.of(
            f"'{out}' is there already", hint="name another file, or replace it with --force"
        )
    if out is not None and not out.parent.is_dir():
        raise UsageError.of(f"there is no folder '{out.parent}'")


def _write(text: str, out: Path | None) -> None:
    if out is None:
        typer.echo(text, nl=False)
        return
    write_file(out, text.encode())
    complain(f"wrote {out}")
