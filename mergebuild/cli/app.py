"""The commands together, and what becomes of errors: text on stderr and an exit code."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from mergebuild.cli import building, cache, exchange, locking, looking, publishing, sharing
from mergebuild.cli.signals import interruptible
from mergebuild.errors import MergebuildError

app = typer.Typer(
    name="mergebuild",
    help="Build model merges from recipes, and only what is stale.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(building.build)
app.command()(building.plan)
app.command()(building.explain)
app.command()(building.status)
app.command()(locking.lock)
app.command()(looking.graph)
app.command()(looking.show)
app.command()(looking.methods)
app.command()(looking.inspect)
app.command()(looking.schema)
app.command()(looking.init)
app.command("import")(exchange.import_)
app.command()(exchange.export)
app.command()(publishing.publish)
app.command()(publishing.provenance)
app.command()(cache.verify)
app.command()(sharing.push)
app.command()(sharing.pull)
app.add_typer(sharing.keys, name="keys")
app.add_typer(cache.cache, name="cache")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mergebuild {version('mergebuild')}")
        raise typer.Exit


@app.callback()
def _top(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Build model merges from recipes, and only what is stale."""


def main() -> None:
    """Run the command line and exit."""
    try:
        with interruptible():
            app()
    except MergebuildError as error:
        for problem in error.problems:
            typer.echo(problem.render() + "\n", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        place = f" '{error.filename}'" if error.filename else ""
        typer.echo(f"error: the system refused{place}: {error.strerror or error}", err=True)
        sys.exit(1)
