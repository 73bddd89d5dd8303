"""A build told in plain lines, for logs and pipes."""

from __future__ import annotations

import json
from collections.abc import Callable

from mergebuild.console.sharing import shared_text, transferring_text
from mergebuild.console.words import duration, plural, size
from mergebuild.events import (
    BuildFinished,
    BuildStarted,
    Digesting,
    Event,
    Fetching,
    Hashing,
    NodeBuilt,
    NodeStarted,
    OutputPublished,
    Shared,
    Sink,
    Transferring,
    Uploading,
    Verifying,
    Waiting,
    Warned,
    Work,
    to_json,
)

Print = Callable[[str], None]


def plain_sink(write: Print) -> Sink:
    """A sink that writes a line for everything but single tensors."""
    work: dict[str, Work] = {}

    def sink(event: Event) -> None:
        match event:
            case BuildStarted():
                work.update((item.node, item) for item in event.work)
            case Digesting(source, count):
                write(f"reading source '{source}' for the first time ({size(count)})")
            case Hashing(name, count):
                write(f"hashing '{name}' ({size(count)})")
            case Fetching(repo, commit, files, count):
                write(fetching(repo, commit, files, count))
            case Uploading(repo, files, count):
                write(f"uploading to '{repo}': {plural(files, 'file')} ({size(count)})")
            case NodeStarted(node):
                item = work[node]
                fetches = f", fetches {size(item.fetched)}" if item.fetched else ""
                write(
                    f"building '{node}': {plural(item.tensors, 'tensor')}, "
                    f"reads {size(item.read)}{fetches}"
                )
            case NodeBuilt(node, _, seconds):
                write(f"built '{node}' in {duration(seconds)}")
            case OutputPublished(node, path, how):
                write(f"published '{node}' to {path} ({how})")
            case Transferring():
                write(transferring_text(event))
            case Shared():
                write(shared_text(event))
            case Waiting(host, pid, count):
                write(waiting(host, pid, count))
            case Verifying(name, count):
                write(f"verifying '{name}' ({size(count)})")
            case Warned(text):
                write(text)
            case BuildFinished():
                if event.ok:
                    write(summary(event))
            case _:
                pass

    return sink


def json_sink(write: Print) -> Sink:
    """A sink that writes every event as a line of JSON."""
    return lambda event: write(json.dumps(to_json(event)))


def fetching(repo: str, commit: str, files: int, count: int) -> str:
    """What is downloaded."""
    return f"fetching '{repo}' at {commit[:8]}: {plural(files, 'file')} ({size(count)})"


def waiting(host: str, pid: int, count: int) -> str:
    """Whom a build waits for."""
    return (
        f"waiting for another build (process {pid} on {host}), which is making "
        f"{plural(count, 'checkpoint')} of this one"
    )


def summary(event: BuildFinished) -> str:
    """What a build did, in a line."""
    counts = [
        f"{count:,} {how}"
        for count, how in (
            (event.computed, "computed"),
            (event.copied, "copied"),
            (event.linked, "linked"),
            (event.fetched, "fetched"),
            (event.resumed, "resumed"),
        )
        if count
    ]
    parts = []
    if event.built:
        parts.append(f"{plural(len(event.built), 'node')} built")
        parts.append("tensors " + (", ".join(counts) or "none"))
        parts.append(f"{size(event.written)} written")
    if event.published:
        parts.append(f"{plural(len(event.published), 'output')} published")
    return f"done in {duration(event.seconds)}: {', '.join(parts)}"
