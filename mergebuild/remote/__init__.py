"""Checkpoints that are shared: what remotes hold, what of it may be believed, and fetching it."""

from mergebuild.remote.claim import Claim, outline_digest
from mergebuild.remote.fetch import Downloads, Missed
from mergebuild.remote.remotes import Remotes, RemoteTensor

__all__ = ["Claim", "Downloads", "Missed", "RemoteTensor", "Remotes", "outline_digest"]
