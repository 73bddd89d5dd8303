"""Which tensors of a model have a row for each token: embeddings, output heads, their biases.

By names and shapes: the embedding says how many rows there are. A tensor of that many rows is one
of them if its name says so, or if it is in no layer and the number occurs in none. Knows no
vocabularies.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from mergebuild.checkpoint.stacks import TEXT_SECTIONS

Shape: TypeAlias = tuple[int, ...]

_MODULES: Final = frozenset({
    "embed_tokens", "wte", "word_embeddings", "word_embedding", "embed_in", "tok_embeddings",
    "token_embedding", "shared", "embed_tokens_per_layer", "lm_head", "output", "embed_out",
    "head", "decoder", "predictions", "lm_loss", "vocab_projector", "generator_lm_head",
    "final_logits_bias",
})  # fmt: skip
_MODALITIES: Final = ("vision", "visual", "image", "audio", "speech")


@dataclass(frozen=True, slots=True)
class Matrices:
    """The tensors that have a row for each token, `rows` of them each."""

    rows: int
    names: frozenset[str]


def find_matrices(
    shapes: Mapping[str, Shape],
    beside: Collection[str],
    known: str | None,
    config: Mapping[str, Any] | None,
) -> Matrices | None:
    """Given every tensor's shape, those in no layer, and the embedding or head if it is known.

    Without it the config's `vocab_size` tells. None where nothing does.
    """
    outside = set(beside)
    inner = {extent for name, shape in shapes.items() if name not in outside for extent in shape}
    rows = shapes[known][0] if known is not None else _vocab_size(config)
    if rows is None:
        return None
    names = frozenset(
        name
        for name, shape in shapes.items()
        if rows_of(shape) == rows
        and not any(word in name for word in _MODALITIES)
        and (_module(name) in _MODULES or (name in outside and rows not in inner))
    )
    return Matrices(rows, names) if names else None


def rows_of(shape: Shape) -> int | None:
    """The rows of a matrix or of a bias; of [1, n], which some biases are, n."""
    if len(shape) == 2 and shape[0] == 1:
        return shape[1]
    return shape[0] if shape else None


def resized(shape: Shape, rows: int) -> Shape:
    """The same shape with another number of rows."""
    return (1, rows) if len(shape) == 2 and shape[0] == 1 else (rows, *shape[1:])


def _module(name: str) -> str:
    parts = name.split(".")
    return parts[-2] if len(parts) > 1 and parts[-1] in ("weight", "bias") else parts[-1]


def _vocab_size(config: Mapping[str, Any] | None) -> int | None:
    top = config or {}
    for section in (top, *(top.get(key) for key in TEXT_SECTIONS)):
        if isinstance(section, Mapping) and type(section.get("vocab_size")) is int:
            return int(section["vocab_size"])
    return None
