"""Checkpoints that are shared: what remotes hold, what of it may be believed, and fetching it."""

from mergebuild.remote.remotes import Remotes, RemoteTensor

__all__ = ["RemoteTensor", "Remotes"]
