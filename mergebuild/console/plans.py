"""Plans, states and explanations as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mergebuild.checkpoint.hub import Snapshot
from mergebuild.console.words import listing, plural, size
from mergebuild.expression import Operand, RowsView, fields, view_fields
from mergebuild.plan import NodePlan, Plan, Reason
from mergebuild.plan.costs import fetched_bytes, written_bytes
from mergebuild.plan.reasons import value_text
from mergebuild.recipe import NodeRef


def plan_text(plan: Plan) -> str:
    """The whole plan: nodes in order with state, reasons, what is read and written, and costs."""
    width = max(map(len, plan.nodes))
    lines = [line for name, node in plan.nodes.items() for line in _node(plan, name, node, width)]
    lines += [
        f"source {source}: {snapshot.repo} at {snapshot.commit}"
        for source, leaf in plan.leaves.items()
        for snapshot in leaf.snapshots
    ]
    lines.append("")
    wanted = [node for node in plan.nodes.values() if node.wanted]
    costs = plan.costs
    if wanted:
        lines.append(
            f"{plural(len(wanted), 'node')} to build: reads {size(costs.read)}, "
            + (f"fetches {size(costs.fetched)}, " if costs.fetched else "")
            + f"writes {size(costs.written)}; needs {size(costs.disk)} of free disk "
            f"and about {size(costs.memory)} of memory"
        )
    elif plan.fresh:
        lines.append("everything is fresh: nothing to do")
    else:
        lines.append("nothing to compute, only outputs to publish")
    return "\n".join(lines)


def _node(plan: Plan, name: str, node: NodePlan, width: int) -> Iterator[str]:
    indent = " " * (width + 2)
    yield f"{name:<{width}}  {state_text(node)}"
    for reason in node.reasons:
        yield f"{indent}because {reason_text(reason)}"
    if node.wanted:
        reads = size(plan.costs.reads[name])
        if node.stored:
            yield f"{indent}{node.node.method}: reads {reads}, writes {size(written_bytes(node))}"
        else:
            yield f"{indent}{node.node.method}: reads {reads}, in flight only"
    for remote in dict.fromkeys(there.remote for there in node.fetch.values()):
        tensors = [there for there in node.fetch.values() if there.remote == remote]
        fetched = size(sum(there.size for there in tensors))
        yield f"{indent}fetches {plural(len(tensors), 'tensor')} ({fetched}) from {remote}"
    for note in node.notes:
        yield f"{indent}note: {note}"
    if node.output is not None and not node.output.fresh:
        yield f"{indent}publishes to {node.output.path}, which {node.output.reason}"


def state_text(node: NodePlan) -> str:
    """fresh, stale, or partly stale with its share of tensors."""
    if not node.wanted:
        return "fresh"
    total = len(node.outline.tensors)
    if node.fetch and not node.compute:
        return f"stale: {plural(len(node.fetch), 'tensor')} to fetch"
    if node.state == "partly stale":
        return f"partly stale: {len(node.compute)} of {plural(total, 'tensor')} to compute"
    return f"stale: {plural(len(node.compute), 'tensor')} to compute"


def reason_text(reason: Reason) -> str:
    if not reason.tensors:
        return reason.text
    return f"{reason.text} ({plural(len(reason.tensors), 'tensor')})"


def status_text(plan: Plan) -> str:
    """A line a node and a line an output."""
    width = max(map(len, plan.nodes))
    lines = []
    for name, node in plan.nodes.items():
        why = "; ".join(reason_text(reason) for reason in node.reasons[:3])
        lines.append(f"{name:<{width}}  {state_text(node)}" + (f" ({why})" if why else ""))
    for node in plan.nodes.values():
        if node.output is not None:
            lines.append(f"{node.output.path}: {node.output.reason or 'fresh'}")
    return "\n".join(lines)


def explain_node(plan: Plan, name: str) -> str:
    """Why a node is in its state: every reason with its tensors."""
    node = plan.nodes[name]
    lines = [f"{name} is {state_text(node)}", f"checkpoint key {node.key}"]
    for reason in node.reasons:
        lines.append(f"because {reason_text(reason)}")
        lines.extend(f"  {tensor}" for tensor in reason.tensors[:12])
        if len(reason.tensors) > 12:
            lines.append(f"  and {len(reason.tensors) - 12} more")
    if node.output is not None and not node.output.fresh:
        lines.append(f"output {node.output.path} {node.output.reason}")
    stale = [
        r.name
        for r in dict.fromkeys(node.node.references())
        if isinstance(r, NodeRef) and plan.nodes[r.name].wanted
    ]
    if stale:
        lines.append(f"it is made from {listing(stale)}, stale too: explain those for the root")
    return "\n".join(lines)


def explain_tensor(plan: Plan, name: str, tensor: str) -> str:
    """Everything that a tensor's key is made of, from the walker that makes the key."""
    node = plan.nodes[name]
    expression = node.expressions[tensor]
    outline = node.outline.tensors[tensor]
    lines = [f"{tensor} of {name}", f"  {'key':<24} {outline.key}"]
    for field in fields(expression):
        subject, operand = "", None
        if field.subject is not None:
            operand = expression.operands[field.subject]
            subject = f" of '{operand.model}'"
            if field.name == "content":
                subject += f" ({operand.tensor})"
        lines.append(f"  {field.name + subject:<24} {value_text(field.value)}")
        if field.name == "content" and operand is not None and operand.view is not None:
            lines.extend(_view(node, operand, operand.view))
    if node.outline.layout.split(tensor)[0] is None:
        lines.append("  it is in no layer: gradients are taken at t = 0")
    if expression.unchanged:
        lines.append("  it passes through unchanged and keeps its input's key")
    if node.wanted:
        lines.append(f"  it will be {_how(node, tensor)}")
    return "\n".join(lines)


def _view(node: NodePlan, operand: Operand, view: RowsView) -> Iterator[str]:
    """What a view is made of, from the walker that makes its key."""
    for field in view_fields(view, operand.dtype):
        label = field.name
        if field.subject is not None:
            part = view.parts[field.subject]
            read = node.tables[view.table].reads[field.subject]
            label += f" of '{part.model}' ({part.tensor}, {plural(read, 'row')})"
        yield f"    {label:<22} {value_text(field.value)}"


def _how(node: NodePlan, tensor: str) -> str:
    if tensor in node.reuse:
        return f"copied from {node.reuse[tensor].region.path}"
    return f"fetched from {node.fetch[tensor].remote}" if tensor in node.fetch else "computed"


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan for machines."""
    return {
        "recipe": plan.recipe.name,
        "fresh": plan.fresh,
        "nodes": [_node_json(plan, name, node) for name, node in plan.nodes.items()],
        "sources": [
            {
                "source": str(source),
                "paths": [str(path) for path in leaf.paths],
                "hub": [_snapshot_json(snapshot) for snapshot in leaf.snapshots],
            }
            for source, leaf in plan.leaves.items()
        ],
        "costs": {
            "read": plan.costs.read,
            "written": plan.costs.written,
            "fetched": plan.costs.fetched,
            "disk": plan.costs.disk,
            "memory": plan.costs.memory,
        },
    }


def _snapshot_json(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "repo": snapshot.repo,
        "revision": snapshot.revision,
        "commit": snapshot.commit,
        "fetched": {"files": snapshot.files, "bytes": snapshot.bytes},
    }


def _node_json(plan: Plan, name: str, node: NodePlan) -> dict[str, Any]:
    linked = {t for shard in node.shards if shard.name in node.linked for t in shard.offsets}
    return {
        "node": name,
        "method": node.node.method,
        "key": node.key,
        "state": node.state,
        "wanted": node.wanted,
        "tensors": len(node.outline.tensors),
        "compute": sorted(node.compute),
        "copy": sorted(node.reuse.keys() - linked),
        "link": sorted(linked),
        "fetch": sorted(node.fetch),
        "reasons": [{"text": r.text, "tensors": list(r.tensors)} for r in node.reasons],
        "notes": list(node.notes),
        "read": plan.costs.reads.get(name, 0),
        "fetched": fetched_bytes(node),
        "written": written_bytes(node),
        "output": (
            {
                "path": str(node.output.path),
                "fresh": node.output.fresh,
                "reason": node.output.reason,
            }
            if node.output is not None
            else None
        ),
    }
