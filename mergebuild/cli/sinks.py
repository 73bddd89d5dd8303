"""Where a command's events go: a live view, plain lines, or JSON."""

from __future__ import annotations

import sys
from contextlib import ExitStack

import typer

from mergebuild.console.plain import json_sink, plain_sink
from mergebuild.events import Sink


def complain(text: str) -> None:
    """A line on stderr."""
    typer.echo(text, err=True)


def event_sink(stack: ExitStack, json_: bool) -> Sink:
    """Drawn on stderr if that is a terminal, for as long as `stack` is open."""
    if json_:
        return json_sink(lambda line: print(line, flush=True))
    if not sys.stderr.isatty():
        return plain_sink(complain)
    from mergebuild.console.live import LiveView

    return stack.enter_context(LiveView())
