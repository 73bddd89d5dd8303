"""From a plan to checkpoints: scheduling, evaluating, staging and publishing."""

from mergebuild.engine.build import Options
from mergebuild.engine.rounds import build

__all__ = ["Options", "build"]
