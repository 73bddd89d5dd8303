"""Checkpoints that are shared: what remotes hold, what of it may be believed, and fetching it."""

from mergebuild.remote.claim import Claim, outline_digest
from mergebuild.remote.remotes import Remotes, RemoteTensor

__all__ = ["Claim", "RemoteTensor", "Remotes", "outline_digest"]
