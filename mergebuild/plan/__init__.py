"""From a recipe to what has to be done: outlines, keys, freshness, reasons and costs."""

from mergebuild.plan.freshness import planned_layout
from mergebuild.plan.model import (
    Costs,
    Leaf,
    NodePlan,
    OutputPlan,
    Part,
    Plan,
    Reason,
    Settings,
    part_reference,
)
from mergebuild.plan.outline import Outline, SideFile, TensorOutline, checkpoint_key
from mergebuild.plan.planner import make_plan
from mergebuild.plan.reasons import changes, differences

__all__ = [
    "Costs",
    "Leaf",
    "NodePlan",
    "Outline",
    "OutputPlan",
    "Part",
    "Plan",
    "Reason",
    "Settings",
    "SideFile",
    "TensorOutline",
    "changes",
    "checkpoint_key",
    "differences",
    "make_plan",
    "part_reference",
    "planned_layout",
]
