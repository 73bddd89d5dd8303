"""Does a node make sense for its method, and do the nodes hang together?

Owns the checks that need a whole node or the whole recipe: the base, the number of inputs, missing
parameters, parameters without effect, cycles. Must not know YAML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from mergebuild.methods.declaration import REQUIRED, Method, Scope
from mergebuild.recipe.context import Context, shown
from mergebuild.recipe.meanings import Names
from mergebuild.recipe.model import (
    Application,
    Extraction,
    Input,
    ModelRef,
    Module,
    Node,
    NodeRef,
    Parameters,
    Slice,
    Source,
)
from mergebuild.recipe.names import REPO

APPLY: Final = "apply_lora"


def fitted(node: Node, method: Method, ctx: Context) -> Node:
    """The node after its checks, without a base that its method has no use for."""
    ctx = ctx.within(node.name, method)
    if method.base == "ignored":
        node = _without_base(node, method, ctx)
    elif method.base == "required" and any(
        (part.base or node.base) is None for module in node.modules for part in module.slices
    ):
        ctx.error(f"'{method.name}' needs a base", node.at, "name it under 'base_model:'")
    for module in node.modules:
        for part in module.slices:
            _check_slice(part, module, node, method, ctx)
    return node


def _without_base(node: Node, method: Method, ctx: Context) -> Node:
    bases = [node.base] + [part.base for module in node.modules for part in module.slices]
    for base in bases:
        if base is not None and base.at is not None:
            said = f"'{method.name}' has no base: '{base}' is left out"
            ctx.warn(said, base.at, "to merge it, list it under 'models:'")
    tokenizer = node.tokenizer
    if tokenizer is not None and node.base is not None:
        source = node.base if tokenizer.source == "base" else tokenizer.source
        tokenizer = replace(tokenizer, source=source, base=node.base)
    modules = tuple(
        replace(module, slices=tuple(replace(part, base=None) for part in module.slices))
        for module in node.modules
    )
    return replace(node, base=None, modules=modules, tokenizer=tokenizer)


def _check_slice(part: Slice, module: Module, node: Node, method: Method, ctx: Context) -> None:
    base = part.base or node.base
    seen: set[ModelRef] = set()
    for entry in part.inputs:
        if entry.model in seen:
            said = f"model {shown(str(entry.model))} stands twice in one slice"
            ctx.error(said, entry.at, "add up its weights, or delete one of the two")
        seen.add(entry.model)
    if base is None and method.base == "required":
        return
    others = [entry for entry in part.inputs if entry.model != base]
    _check_effect(part, base, method, ctx)
    low, high = method.inputs
    if not (low <= len(others) and (high is None or len(others) <= high)):
        wanted = _counted(low, high)
        besides = " besides its base" if base is not None else ""
        said = f"'{method.name}' merges {wanted}{besides}, not {len(others)}"
        ctx.error(said, part.at, _count_hint(method, base))
    _check_missing(part, others, base, (part.parameters, module.parameters, node.parameters), ctx)


def _count_hint(method: Method, base: ModelRef | None) -> str | None:
    if method.base == "optional" and base is None:
        return "a base is named under 'base_model:', not listed among the models"
    return None


def _counted(low: int, high: int | None) -> str:
    if low == high:
        return f"exactly {low} model{'s' * (low != 1)}"
    if high is None:
        return f"at least {low} model{'s' * (low != 1)}"
    return f"{low} to {high} models"


def _check_effect(part: Slice, base: ModelRef | None, method: Method, ctx: Context) -> None:
    """Parameters of single models that nobody will read."""
    for entry in part.inputs:
        for name, setting in entry.parameters.items():
            scope = method.parameters[name].scope
            if scope is Scope.SHARED:
                said = f"parameter '{name}' has no effect on the single model '{entry.model}'"
                hint = "move it to the 'parameters:' of the slice or of the node"
                ctx.warn(said, setting.at, hint)
            elif scope is Scope.DELTA and entry.model == base:
                said = f"parameter '{name}' has no effect on the base '{entry.model}'"
                ctx.warn(said, setting.at, "delete it")


def _check_missing(
    part: Slice,
    others: list[Input],
    base: ModelRef | None,
    levels: tuple[Parameters, ...],
    ctx: Context,
) -> None:
    """Every required parameter must be said at one of the levels that are asked for it."""
    assert ctx.method is not None
    for name, parameter in ctx.method.parameters.items():
        if parameter.default is not REQUIRED or any(name in level for level in levels):
            continue
        if parameter.scope is Scope.SHARED:
            said = f"'{ctx.method.name}' needs the parameter '{name}'"
            ctx.error(said, part.at, "give it under the node's 'parameters:'")
            continue
        hint = "give it under the model's 'parameters:', or under the node's for all models"
        for entry in others if parameter.scope is Scope.DELTA else part.inputs:
            if name not in entry.parameters:
                said = f"model {shown(str(entry.model))} needs the parameter '{name}'"
                ctx.error(said, entry.at, hint)
        listed = any(entry.model == base for entry in part.inputs)
        if parameter.scope is Scope.INPUT and base is not None and not listed and base.at:
            ctx.error(f"base {shown(str(base))} needs the parameter '{name}'", base.at, hint)


def applications(names: Names) -> dict[str, Node]:
    """The nodes that references `model+adapter` stand for."""
    return {
        name: Node(name, APPLY, (), None, {}, at, keep="never", body=body)
        for name, (body, at) in names.applied.items()
    }


def check_adapters(nodes: Mapping[str, Node], ctx: Context) -> None:
    """Reports adapters that stand where a model belongs, and models in the place of an adapter."""
    for node in nodes.values():
        body = node.body
        adapter = body.adapter if isinstance(body, Application) else None
        about = ctx if adapter is not None else ctx.within(node.name)
        for reference in _uses(node):
            made = nodes.get(reference.name)
            if made is None:
                continue
            at, name = reference.at or node.at, shown(reference.name)
            makes_adapter = isinstance(made.body, Extraction)
            if makes_adapter and reference is not adapter:
                hint = f"put it behind its base: {shown(f'BASE+{reference.name}')}"
                about.error(f"node {name} is a LoRA, not a model", at, hint)
            elif not makes_adapter and reference is adapter:
                about.error(f"node {name} is a model, not a LoRA", at, "its kind must be 'lora'")


def check_places(nodes: Mapping[str, Node], ctx: Context) -> None:
    """Reports sources of recipes from elsewhere that would be looked for on this machine."""
    for node in nodes.values():
        for reference in node.references():
            parts = (reference, reference.lora) if isinstance(reference, Source) else ()
            for part in parts:
                if part is not None and part.within is None and not REPO.fullmatch(part.place):
                    said = f"a recipe from elsewhere cannot name the local path {shown(part.place)}"
                    hint = "say where that model is under 'sources:' of the include"
                    ctx.within(node.name).error(said, part.at or node.at, hint)


def check_cycles(nodes: Mapping[str, Node], ctx: Context) -> None:
    """Reports every reference that closes a cycle, walking in declared order."""
    done: set[str] = set()
    for start in nodes:
        if start in done:
            continue
        path: dict[str, Iterator[NodeRef]] = {start: _uses(nodes[start])}
        while path:
            here = next(reversed(path))
            reference = next(path[here], None)
            if reference is None:
                done.add(here)
                del path[here]
            elif reference.name in path:
                names = list(path)
                ring = [*names[names.index(reference.name) :], reference.name]
                _report_cycle(ring, reference, nodes, ctx)
            elif reference.name in nodes and reference.name not in done:
                path[reference.name] = _uses(nodes[reference.name])


def _report_cycle(
    ring: list[str], reference: NodeRef, nodes: Mapping[str, Node], ctx: Context
) -> None:
    at = reference.at or nodes[ring[0]].at
    if len(ring) == 2:
        ctx.error(f"node '{ring[0]}' uses itself", at, "name another node or a source")
        return
    if len(ring) > 10:
        ring = [*ring[:5], f"({len(ring) - 9} more)", *ring[-4:]]
    hint = "a node can only use what is built before it"
    ctx.error("the nodes form a cycle: " + " -> ".join(ring), at, hint)


def _uses(node: Node) -> Iterator[NodeRef]:
    return (model for model in node.references() if isinstance(model, NodeRef))


def unused(nodes: Mapping[str, Node]) -> list[str]:
    """The nodes that no other node uses, in declared order."""
    used = {model.name for node in nodes.values() for model in _uses(node)}
    return [name for name in nodes if name not in used]
