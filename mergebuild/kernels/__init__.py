"""Passes over chunks of tensors: what methods ask for, and the code that does it.

`operations` describes, `interface` says what an implementation offers, `evaluate` drives one
over a tensor, `torch` is one. Nothing but `torch` imports torch.
"""

from __future__ import annotations

from mergebuild.kernels.evaluate import Outcome, Reader, Writer, evaluate
from mergebuild.kernels.interface import Bench, Gathering, Kernels
from mergebuild.kernels.operations import BLOCK, Map, Statistic, Steps

__all__ = [
    "BLOCK",
    "Bench",
    "Gathering",
    "Kernels",
    "Map",
    "Outcome",
    "Reader",
    "Statistic",
    "Steps",
    "Writer",
    "evaluate",
]
