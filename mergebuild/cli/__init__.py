"""The command line: arguments in, exit codes out. Only this package imports typer."""

from mergebuild.cli.app import main

__all__ = ["main"]
