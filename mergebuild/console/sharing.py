"""Transfers and keys as text."""

from __future__ import annotations

from collections.abc import Sequence

from mergebuild.console.words import plural, size
from mergebuild.events import Shared, Transferring
from mergebuild.remote.signature import PublicKey


def transferring_text(event: Transferring) -> str:
    """What is sent or comes."""
    way = "pushing {} to" if event.what == "push" else "pulling {} from"
    name = f"'{event.node}' ({event.checkpoint[:8]})"
    what = f"{plural(event.files, 'file')} ({size(event.bytes)})"
    return f"{way.format(name)} '{event.remote}': {what}"


def shared_text(event: Shared) -> str:
    """What became of a checkpoint."""
    name = f"'{event.node}' ({event.checkpoint[:8]})" if event.node else event.checkpoint
    if event.how == "already there":
        where = f"on '{event.remote}'" if event.what == "push" else "in the cache"
        return f"{name} is {where} already"
    if event.how == "failed":
        return f"{name} was not {event.what}ed" + (
            ": no remote has it whole" if event.what == "pull" else f" to '{event.remote}'"
        )
    way = "pushed {} to" if event.what == "push" else "pulled {} from"
    sent = f": {plural(event.files, 'file')} ({size(event.bytes)})"
    return f"{way.format(name)} '{event.remote}'{sent}"


def keys_text(own: Sequence[PublicKey], trusted: Sequence[PublicKey]) -> str:
    """One's own keys and the trusted ones, a line each."""
    lines = [f"own      {key.fingerprint}  {key.name}" for key in own]
    lines += [f"trusted  {key.fingerprint}  {key.name}" for key in trusted]
    return "\n".join(lines) or "no keys: 'mergebuild keys new' makes one"
