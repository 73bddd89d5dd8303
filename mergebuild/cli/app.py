"""The commands together, and what becomes of errors: text on stderr and an exit code."""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from keyword import iskeyword
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from mergebuild.cli.signals import interruptible
from mergebuild.errors import MergebuildError

COMMANDS: Final = {
    "build": "building",
    "plan": "building",
    "explain": "building",
    "status": "building",
    "lock": "locking",
    "graph": "looking",
    "show": "looking",
    "methods": "looking",
    "inspect": "looking",
    "schema": "looking",
    "init": "looking",
    "import": "exchange",
    "export": "exchange",
    "publish": "publishing",
    "provenance": "publishing",
    "verify": "cache",
    "push": "sharing",
    "pull": "sharing",
    "keys": "sharing",
    "cache": "cache",
}
"""Every command and the module that has it, in the order of the help."""


class Commands(TyperGroup):
    """The commands, each imported when it is asked for: one needs little of what others do."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            self.commands[cmd_name] = _command(cmd_name)
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS:  # then all are named that it could be
            for name in COMMANDS:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)


def _command(name: str) -> Any:
    """A function as a command, or a Typer of several."""
    module = import_module(f"mergebuild.cli.{COMMANDS[name]}")
    found = getattr(module, f"{name}_" if iskeyword(name) else name)
    if isinstance(found, typer.Typer):
        group = typer.main.get_command(found)
        group.name = name
        return group
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name)(found)
    return typer.main.get_command(alone)


app = typer.Typer(
    name="mergebuild",
    help="Build model merges from recipes, and only what is stale.",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"mergebuild {version('mergebuild')}")
        raise typer.Exit


@app.callback()
def _top(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Build model merges from recipes, and only what is stale."""


def _collect_seldom() -> None:
    """What a plan of many tensors makes is kept, and looking for garbage among it over and over
    takes a fifth of the time: look less often, and not at what is imported."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def main() -> None:
    """Run the command line and exit."""
    _collect_seldom()
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
