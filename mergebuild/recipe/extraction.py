"""A node of kind `lora`: the adapter that makes one model out of another.

Owns the keys of such a node. Must not know tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, cast

from mergebuild.errors import Location
from mergebuild.recipe import fields, settings
from mergebuild.recipe.context import Context, shown
from mergebuild.recipe.filters import fault
from mergebuild.recipe.meanings import Names
from mergebuild.recipe.model import Extraction, Node
from mergebuild.recipe.tree import Entry, Fields

KEYS: Final = (
    *("model", "base_model", "rank", "alpha", "modules", "embeddings", "modules_to_save"),
    *("dtype", "out_dtype"),
)
EMBEDDINGS: Final = ("lora", "save", "leave")
METHOD: Final = "extract_lora"
_RANK_HINT: Final = 'rank: 16, or by PEFT\'s patterns: rank: {q_proj: 32, "*": 16}'


def read(
    name: str, keys: Mapping[str, Entry], at: Location, names: Names, ctx: Context
) -> Node | None:
    """The node; None where it lacks what it cannot do without."""
    model = settings.model(keys, "model", names, ctx)
    base = settings.model(keys, "base_model", names, ctx)
    if model is None:
        ctx.error("'model' is missing", at, "name the finetune that the adapter is to stand for")
    if base is None:
        ctx.error("'base_model' is missing", at, "name the model that the adapter is to be put on")
    if "rank" not in keys:
        ctx.error("'rank' is missing", at, _RANK_HINT)
    if model is not None and model == base:
        ctx.error("'model' is the base itself", keys["model"].value.at, "name the finetune")
    ranks = _ranks(keys["rank"], ctx) if "rank" in keys else ()
    alpha = _alpha(keys["alpha"], ctx) if "alpha" in keys else None
    embeddings = settings.choice(keys, "embeddings", EMBEDDINGS, ctx)
    modules = settings.filters(keys, "modules", ctx)
    saved = settings.filters(keys, "modules_to_save", ctx)
    dtype = settings.dtype(keys, "dtype", ctx)
    out_dtype = settings.dtype(keys, "out_dtype", ctx)
    keep, description = settings.keep(keys, ctx), settings.text(keys, "description", ctx)
    if model is None or base is None:
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
        keep=keep,
        description=description,
        body=Extraction(
            model=model,
            ranks=ranks,
            alpha=alpha,
            modules=modules,
            embeddings=cast(Literal["lora", "save", "leave"], embeddings or "lora"),
            saved=saved,
            at=keys["rank"].at if "rank" in keys else at,
        ),
    )


def _ranks(entry: Entry, ctx: Context) -> tuple[tuple[str | None, int], ...]:
    if not isinstance(entry.value, Fields):
        rank = fields.whole(entry.value, "'rank'", ctx, low=1)
        return ((None, rank),) if rank is not None else ()
    found: list[tuple[str | None, int]] = []
    everything = False
    for pattern, one in fields.entries(entry.value, "'rank'", ctx).items():
        rank = fields.whole(one.value, f"the rank of {shown(pattern)}", ctx, low=1)
        if everything:
            ctx.warn(f"the rank of {shown(pattern)} has no effect after '*'", one.at)
        everything = everything or pattern == "*"
        if pattern != "*" and (why := fault(f"/{pattern}/")):
            ctx.error(f"pattern {shown(pattern)} cannot be used: {why}", one.at, _RANK_HINT)
        elif rank is not None:
            found.append((None if pattern == "*" else pattern, rank))
    if not entry.value.entries:
        ctx.error("'rank' must not be empty", entry.value.at, _RANK_HINT)
    return tuple(found)


def _alpha(entry: Entry, ctx: Context) -> float:
    alpha = fields.number(entry.value, "'alpha'", ctx, 1.0)
    if alpha <= 0:
        said = f"'alpha' must be above 0, not {alpha:g}"
        ctx.error(said, entry.value.at, "leave it out for a scale of 1")
    return alpha
