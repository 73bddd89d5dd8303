"""Passes over chunks of tensors: what methods ask for, and the code that does it.

`operations` describes, `interface` says what an implementation offers, `evaluate` drives one
over a tensor, `torch` is one. Nothing but `torch` imports torch.
"""

from __future__ import annotations

from mergebuild.kernels.evaluate import Outcome, evaluate
from mergebuild.kernels.interface import Bench, Gathering, Kernels
from mergebuild.kernels.operations import BLOCK, Map, Statistic, Steps
from mergebuild.kernels.walk import Help, Reader, Writer

__all__ = [
    "BLOCK",
    "Bench",
    "Gathering",
    "Help",
    "Kernels",
    "Map",
    "Outcome",
    "Reader",
    "Statistic",
    "Steps",
    "Writer",
    "evaluate",
]
