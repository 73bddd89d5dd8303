"""From a recipe to what has to be done: outlines, keys, freshness, reasons and costs."""

from mergebuild.plan.freshness import planned_layout
from mergebuild.plan.leaves import files_of
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
from mergebuild.plan.planner import make_plan, plan_again, settle
from mergebuild.plan.provisional import TrueKeys
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
    "TrueKeys",
    "changes",
    "checkpoint_key",
    "differences",
    "files_of",
    "make_plan",
    "part_reference",
    "plan_again",
    "planned_layout",
    "settle",
]
