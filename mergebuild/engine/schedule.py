"""The order of work: one task a tensor of a node, each right after those that it reads.

A chain of stale nodes thereby runs as one pass: what a tensor is made from has just been written
when it is read.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

from mergebuild.plan import NodePlan, Plan
from mergebuild.recipe import ModelRef, NodeRef

Task: TypeAlias = tuple[str, str]
"""A node and one of its tensors."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Tasks in order; `needs` holds, for each, those that must be done before."""

    tasks: tuple[Task, ...]
    needs: dict[Task, tuple[Task, ...]]


def work_of(node: NodePlan) -> list[str]:
    """The tensors of a node that have to be computed, fetched, copied or, where whole shards are
    linked, checked; in order."""
    return (
        list(node.outline.tensors)
        if node.stored
        else sorted({*node.compute, *node.reuse, *node.fetch})
    )


def schedule(plan: Plan, done: Collection[Task] = ()) -> Schedule:
    """Everything that a plan wants done, but for the tasks that are `done` already.

    What exists in flight only is made if something that is left to do reads it.
    """
    wanted = {name: node for name, node in plan.nodes.items() if node.wanted}
    work = {name: work_of(node) for name, node in wanted.items()}
    mine = {(name, tensor) for name, tensors in work.items() for tensor in tensors}.difference(done)
    needs = {task: _needs(task, plan, mine) for task in mine}
    order: dict[Task, None] = {}
    for name in reversed(list(work)):
        for tensor in work[name] if wanted[name].stored else ():
            if (name, tensor) in mine:
                _append((name, tensor), needs, order)
    return Schedule(tuple(order), needs)


def _append(task: Task, needs: dict[Task, tuple[Task, ...]], order: dict[Task, None]) -> None:
    """Append a task after what it needs; iterative, since chains may be long."""
    stack = [task]
    while stack:
        missing = [need for need in needs[stack[-1]] if need not in order]
        if missing:
            stack.extend(reversed(missing))
        else:
            order[stack.pop()] = None


def _needs(task: Task, plan: Plan, mine: set[Task]) -> tuple[Task, ...]:
    nodes = ((m.name, t) for m, t in reads_of(task, plan) if isinstance(m, NodeRef))
    return tuple(need for need in nodes if need in mine)


def reads_of(task: Task, plan: Plan) -> dict[tuple[ModelRef, str], None]:
    """What a task computes a tensor from: models and tensors of theirs, each once, in order."""
    name, tensor = task
    node = plan.nodes[name]
    if tensor not in node.compute:
        return {}
    operands = node.expressions[tensor].operands
    return {(node.models[part.model], part.tensor): None for o in operands for part in o.read}
