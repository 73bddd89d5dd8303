"""A node of kind `moe`, and mergekit-moe's file: experts from the feed-forward layers of models.

Owns the keys of both. Must not know tensors or architectures but by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mergebuild.errors import Location
from mergebuild.recipe import fields, settings
from mergebuild.recipe.context import Context
from mergebuild.recipe.meanings import Names
from mergebuild.recipe.model import Expert, Mixture, Node, Source
from mergebuild.recipe.references import resolve
from mergebuild.recipe.tree import Entry, Leaf, Tree

MERGEKIT_KEYS: Final = (
    *("base_model", "experts", "shared_experts", "gate_mode", "experts_per_token", "architecture"),
    "dtype",
)
NATIVE_KEYS: Final = ("gates", "seed", "out_dtype")
ARCHITECTURES: Final = ("mixtral", "qwen2_moe", "qwen3_moe")
METHOD: Final = "moe"
GATES: Final = ("random", "vectors")
GATE_KEYS: Final = ("vectors",)
_PROMPTED: Final = ("hidden", "cheap_embed")
_POSSIBLE: Final = (
    "'gate_mode: random' is possible; in a native recipe also 'gates: FILE', vectors that were "
    "computed elsewhere"
)


def read(
    name: str,
    keys: Mapping[str, Entry],
    at: Location,
    names: Names,
    ctx: Context,
    default_seed: int = 0,
) -> Node | None:
    """The node; None where it lacks what it cannot do without."""
    base = settings.model(keys, "base_model", names, ctx)
    if base is None:
        hint = "name the model that all but the experts comes from"
        ctx.error("'base_model' is missing", at, hint)
    gates = _gates(keys, names, ctx)
    mode = _mode(keys, gates is not None, at, ctx)
    experts = _experts(keys, "experts", mode, names, ctx)
    shared = _experts(keys, "shared_experts", mode, names, ctx)
    if "experts" not in keys:
        ctx.error("'experts' is missing", at, "list the models under 'experts:'")
    used = any(expert.gate is not None for expert in (*experts, *shared))
    if gates is not None and not used:
        ctx.warn("'gates' is not used: no expert has 'gate: vectors'", keys["gates"].at)
    if gates is None and used:
        ctx.error("a gate is of vectors, but 'gates' does not say where they are", at,
                  "name a safetensors file: gates: ./gates.safetensors")  # fmt: skip
    per_token = _per_token(keys, experts, ctx)
    architecture = settings.choice(keys, "architecture", ARCHITECTURES, ctx)
    dtype, out_dtype = (settings.dtype(keys, key, ctx) for key in ("dtype", "out_dtype"))
    seed, keep = settings.seed(keys, default_seed, ctx), settings.keep(keys, ctx)
    description = settings.text(keys, "description", ctx)
    if base is None:
        return None
    return Node(
        name=name,
        method=METHOD,
        modules=(),
        base=base,
        parameters={},
        at=at,
        dtype=dtype,
        out_dtype=out_dtype,
        seed=seed,
        keep=keep,
        description=description,
        body=Mixture(experts, shared, per_token, architecture, gates, at),
    )


def _gates(keys: Mapping[str, Entry], names: Names, ctx: Context) -> Source | None:
    if "gates" not in keys:
        return None
    found = resolve(keys["gates"].value, "'gates'", names, ctx)
    if isinstance(found, Source) and found.lora is None:
        return found
    ctx.error("'gates' must be a safetensors file", keys["gates"].value.at, "name its path")
    return None


def _mode(keys: Mapping[str, Entry], vectors: bool, at: Location, ctx: Context) -> str:
    """What the gate of an expert is that does not say it."""
    if "gate_mode" not in keys:
        if not ctx.native:
            _prompted("hidden", at, ctx)
        return "vectors" if vectors else "random"
    tree = keys["gate_mode"].value
    if isinstance(tree, Leaf) and tree.text in _PROMPTED:
        _prompted(tree.text, tree.at, ctx)
        return "random"
    return fields.choice(tree, "'gate_mode'", GATES, ctx) or "random"


def _prompted(mode: str, at: Location, ctx: Context) -> None:
    said = f"gate mode '{mode}' runs prompts through the models, which is not done here"
    ctx.error(said, at, _POSSIBLE)


def _experts(
    keys: Mapping[str, Entry], key: str, mode: str, names: Names, ctx: Context
) -> tuple[Expert, ...]:
    if key not in keys:
        return ()
    trees = fields.items(keys[key].value, f"'{key}'", ctx)
    shared = key == "shared_experts"
    found = [_expert(tree, index, shared, mode, names, ctx) for index, tree in enumerate(trees)]
    return tuple(expert for expert in found if expert is not None)


def expert_keys(shared: bool, native: bool) -> tuple[str, ...]:
    """The keys of an entry of `experts`, or of `shared_experts`."""
    common = ("source_model", "positive_prompts", "negative_prompts", "noise_scale")
    return (*common, *("residual_scale",) * shared, *("gate",) * native)


def _expert(
    tree: Tree, index: int, shared: bool, mode: str, names: Names, ctx: Context
) -> Expert | None:
    what = "an entry of 'shared_experts'" if shared else "an entry of 'experts'"
    before = len(ctx.problems)
    keys = fields.entries(tree, what, ctx, expert_keys(shared, ctx.native))
    understood = len(ctx.problems) == before
    for prompts in ("positive_prompts", "negative_prompts"):
        if prompts in keys:
            ctx.warn(f"'{prompts}' have no effect: no prompt is run", keys[prompts].at)
    noise = _number(keys, "noise_scale", 0.0, ctx)
    if noise:
        ctx.error("'noise_scale' is not supported", keys["noise_scale"].at, "leave it out")
    scale = _number(keys, "residual_scale", 1.0, ctx)
    gate = _gate(keys, f"shared.{index}" if shared else str(index), mode, ctx)
    if "source_model" not in keys:
        if understood:
            ctx.error(f"{what} has no 'source_model'", tree.at)
        return None
    model = resolve(keys["source_model"].value, "'source_model'", names, ctx)
    return Expert(model, gate, scale, tree.at)


def _gate(keys: Mapping[str, Entry], own: str, mode: str, ctx: Context) -> str | None:
    """None for random, else the name of the vectors."""
    if "gate" not in keys:
        return own if mode == "vectors" else None
    tree = keys["gate"].value
    if isinstance(tree, Leaf):
        return own if fields.choice(tree, "'gate'", GATES, ctx) == "vectors" else None
    inner = fields.entries(tree, "'gate'", ctx, GATE_KEYS)
    if "vectors" not in inner:
        ctx.error("'gate' has no 'vectors'", tree.at, "write gate: {vectors: NAME IN THE FILE}")
        return None
    return fields.text(inner["vectors"].value, "'vectors'", ctx)


def _number(keys: Mapping[str, Entry], key: str, default: float, ctx: Context) -> float:
    if key not in keys:
        return default
    return fields.number(keys[key].value, f"'{key}'", ctx, default)


def _per_token(keys: Mapping[str, Entry], experts: tuple[Expert, ...], ctx: Context) -> int:
    if "experts_per_token" not in keys:
        return min(2, max(1, len(experts)))
    tree = keys["experts_per_token"].value
    found = fields.whole(tree, "'experts_per_token'", ctx, low=1)
    if found is not None and experts and found > len(experts):
        said = f"'experts_per_token' is {found}, but there are {len(experts)} experts"
        ctx.error(said, tree.at, f"use {len(experts)} at the most")
    return found or 1
