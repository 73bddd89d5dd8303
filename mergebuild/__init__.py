"""The build system for model merges."""

from mergebuild.api import build, load, plan
from mergebuild.engine.options import Options
from mergebuild.errors import (
    BuildError,
    CapacityError,
    CheckpointError,
    Location,
    MergebuildError,
    Problem,
    RecipeError,
    UsageError,
)
from mergebuild.plan import Plan, Settings
from mergebuild.recipe import Recipe

__all__ = [
    "BuildError",
    "CapacityError",
    "CheckpointError",
    "Location",
    "MergebuildError",
    "Options",
    "Plan",
    "Problem",
    "Recipe",
    "RecipeError",
    "Settings",
    "UsageError",
    "build",
    "load",
    "plan",
]
