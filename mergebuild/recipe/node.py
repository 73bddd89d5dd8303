"""One mergekit configuration -> a Node: keys, inputs, slices and modules.

Owns the shape of a configuration. What it reads may still make no sense for its method: that is
`validate`'s. Must not know whether it stands in a native recipe but for the extra keys it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, cast

from mergebuild.errors import Location, did_you_mean
from mergebuild.methods.declaration import Method
from mergebuild.recipe import fields, parameters, settings, tokenizer
from mergebuild.recipe.context import Context, shown
from mergebuild.recipe.meanings import Names
from mergebuild.recipe.model import Input, Module, Node, Slice
from mergebuild.recipe.references import resolve
from mergebuild.recipe.tree import Entry, Fields, Items, Leaf, Tree

BODIES: Final = ("models", "slices", "modules")
MERGEKIT_KEYS: Final = (
    *("merge_method", "base_model", "parameters", *BODIES, "dtype", "out_dtype"),
    *("tokenizer_source", "tokenizer", "chat_template"),
)
NATIVE_KEYS: Final = ("description", "seed", "keep", "missing")
MODULE_KEYS: Final = ("slices", "models", "parameters")
SLICE_KEYS: Final = ("sources", "base_model", "parameters", "residual_weight")
MODEL_KEYS: Final = ("model", "parameters")
SOURCE_KEYS: Final = ("model", "layer_range", "parameters")
MISSING: Final = ("copy", "error")


def read(
    name: str,
    keys: Mapping[str, Entry],
    at: Location,
    methods: Mapping[str, Method],
    names: Names,
    ctx: Context,
    default_seed: int = 0,
) -> Node:
    """The node of a configuration whose keys are known to be allowed."""
    method = _method(keys, at, methods, ctx.within(name))
    ctx = ctx.within(name, methods.get(method))
    base = settings.model(keys, "base_model", names, ctx)
    given = [body for body in BODIES if body in keys]
    if not given:
        hint = "list the models to merge under 'models:'"
        ctx.error("none of 'models', 'slices' and 'modules' is given", at, hint)
    elif len(given) > 1:
        places = sorted((keys[body].at, body) for body in given)
        said = f"'{places[1][1]}' and '{places[0][1]}' exclude each other"
        ctx.error(said, places[1][0], "keep one of 'models', 'slices' and 'modules'")
    missing = settings.choice(keys, "missing", MISSING, ctx)
    return Node(
        name=name,
        method=method,
        modules=_modules(given[0], keys[given[0]], names, ctx) if given else (),
        base=base,
        parameters=parameters.read(keys, ctx),
        at=at,
        dtype=settings.dtype(keys, "dtype", ctx),
        out_dtype=settings.dtype(keys, "out_dtype", ctx),
        tokenizer=tokenizer.read(keys, names, ctx),
        chat_template=tokenizer.template(keys, ctx),
        seed=settings.seed(keys, default_seed, ctx),
        keep=settings.keep(keys, ctx),
        missing=cast(Literal["copy", "error"], missing or "copy"),
        description=settings.text(keys, "description", ctx),
    )


def _method(
    keys: Mapping[str, Entry], at: Location, methods: Mapping[str, Method], ctx: Context
) -> str:
    if "merge_method" not in keys:
        ctx.error("'merge_method' is missing", at, "known are: " + ", ".join(sorted(methods)))
        return ""
    tree = keys["merge_method"].value
    name = fields.text(tree, "'merge_method'", ctx)
    if name is not None and name not in methods:
        ctx.error(f"unknown method {shown(name)}", tree.at, did_you_mean(name, list(methods)))
    return name or ""


def _modules(body: str, entry: Entry, names: Names, ctx: Context) -> tuple[Module, ...]:
    if body == "models":
        return (Module(None, _models(entry, names, ctx), {}, entry.at),)
    if body == "slices":
        return (Module("default", _slices(entry, names, ctx), {}, entry.at),)
    found = []
    modules = fields.entries(entry.value, "'modules'", ctx)
    if not modules and isinstance(entry.value, Fields):
        ctx.error("'modules' must not be empty", entry.value.at)
    for name, module in modules.items():
        what = f"module {shown(name)}"
        keys = fields.entries(module.value, what, ctx, MODULE_KEYS)
        if ("slices" in keys) == ("models" in keys):
            ctx.error(f"{what} must have one of 'slices' and 'models'", module.at)
            continue
        read_body = _models if "models" in keys else _slices
        slices = read_body(keys.get("models") or keys["slices"], names, ctx)
        found.append(Module(name, slices, parameters.read(keys, ctx), module.at))
    return tuple(found)


def _models(entry: Entry, names: Names, ctx: Context) -> tuple[Slice, ...]:
    """The `models:` form is one slice over all layers."""
    inputs = [
        _input(tree, "an entry of 'models'", MODEL_KEYS, names, ctx)
        for tree in fields.items(entry.value, "'models'", ctx)
    ]
    kept = tuple(one for one in inputs if one is not None)
    return (Slice(kept, None, {}, entry.at),) if kept else ()


def _slices(entry: Entry, names: Names, ctx: Context) -> tuple[Slice, ...]:
    found = [_slice(tree, names, ctx) for tree in fields.items(entry.value, "'slices'", ctx)]
    return tuple(part for part in found if part is not None)


def _slice(tree: Tree, names: Names, ctx: Context) -> Slice | None:
    before = len(ctx.problems)
    keys = fields.entries(tree, "an entry of 'slices'", ctx, SLICE_KEYS)
    if residual := keys.get("residual_weight"):
        ctx.warn("'residual_weight' has no effect", residual.at, "delete it")
    if "sources" not in keys:
        if len(ctx.problems) == before:
            ctx.error("a slice has no 'sources'", tree.at)
        return None
    inputs = [
        _input(item, "an entry of 'sources'", SOURCE_KEYS, names, ctx)
        for item in fields.items(keys["sources"].value, "'sources'", ctx)
    ]
    kept = tuple(one for one in inputs if one is not None)
    ranged = [one for one in kept if one.layer_range is not None]
    for one in ranged[1:]:
        (first, end), (a, b) = ranged[0].layer_range or (0, 0), one.layer_range or (0, 0)
        if b - a != end - first:
            said = f"the sources of a slice differ in length: [{first}, {end}] and [{a}, {b}]"
            ctx.error(said, one.at, f"{end - first} and {b - a} layers cannot be merged")
    if not kept:
        return None
    base = settings.model(keys, "base_model", names, ctx)
    return Slice(kept, base, parameters.read(keys, ctx), tree.at)


def _input(
    tree: Tree, what: str, known: tuple[str, ...], names: Names, ctx: Context
) -> Input | None:
    if isinstance(tree, Leaf) and tree.value is not None:
        hint = f"write '- model: {tree.text[:60]}'"
        ctx.error(f"{what} must be a mapping, not {fields.described(tree)}", tree.at, hint)
        return None
    before = len(ctx.problems)
    keys = fields.entries(tree, what, ctx, known)
    understood = len(ctx.problems) == before
    settings = parameters.read(keys, ctx)
    span = _layer_range(keys["layer_range"], ctx) if "layer_range" in keys else None
    if "model" not in keys:
        if understood:
            ctx.error(f"{what} has no 'model'", tree.at)
        return None
    model = resolve(keys["model"].value, "'model'", names, ctx)
    return Input(model, settings, span, tree.at)


def _layer_range(entry: Entry, ctx: Context) -> tuple[int, int] | None:
    tree = entry.value
    members = tree.items if isinstance(tree, Items) else ()
    numbers = [
        leaf.value
        for leaf in members
        if isinstance(leaf, Leaf)
        and isinstance(leaf.value, int)
        and not isinstance(leaf.value, bool)
    ]
    hint = "[0, 16] means the layers 0 to 15"
    if len(numbers) != 2 or len(members) != 2:
        ctx.error("'layer_range' must be two whole numbers", tree.at, hint)
        return None
    first, end = numbers
    if not 0 <= first < end:
        why = "is negative" if min(numbers) < 0 else "has no layers"
        ctx.error(f"'layer_range' [{first}, {end}] {why}", tree.at, hint)
        return None
    return first, end
