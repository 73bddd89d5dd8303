"""What the user lets a run do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """What a run may do beyond the plan: replace folders that mergebuild did not write, and let
    values through that are not finite."""

    force: bool = False
    allow_nonfinite: bool = False
