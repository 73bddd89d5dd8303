"""The config.json of a checkpoint that is to be written, from that of a checkpoint there is.

Pure: config in, text out. Changes what no longer holds and keeps all else, in its order. Knows no
tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mergebuild.checkpoint.stacks import TEXT_SECTIONS, count_keys

_DTYPES: Final = ("torch_dtype", "dtype")
_TIED: Final = "tie_word_embeddings"

_PER_LAYER: Final = frozenset({
    "layer_types", "layers_block_type", "block_types", "attention_layers", "mlp_layer_types",
    "no_rope_layers", "sliding_window_pattern", "hybrid_override_pattern", "attn_types",
    "num_key_value_heads", "num_attention_heads", "num_query_heads", "num_kv_heads",
    "ffn_multipliers", "intermediate_size", "block_configs", "sliding_window", "rope_theta",
})  # fmt: skip
"""Keys whose value, if it is as long as there are layers, has an entry for each."""

_LAYER_INDICES: Final = frozenset({
    "mlp_only_layers", "cross_attention_layers", "full_attn_idxs", "attn_layer_indices",
    "global_attn_indices", "full_attention_layers",
})  # fmt: skip
"""Keys whose value lists layers by index."""


def output_config(
    config: Mapping[str, Any],
    *,
    dtype: str | None = None,
    layers: Sequence[int] | None = None,
    tied: bool | None = None,
) -> bytes:
    """The text of a config.json that tells of the checkpoint as written.

    `layers` is, for each output layer of the main stack, the layer of this config's model that it
    is made from (None: all in their places); one past the model's end counts as its last. `dtype`
    is what most weights have, `tied` whether the head is the embedding; None leaves either as it
    is. Equal arguments give equal bytes.
    """
    changed = _without_place(config)
    if layers is not None:
        _set_layers(changed, layers)
    if dtype is not None:
        _set_dtype(changed, dtype)
        if not any(key in changed for key in _DTYPES):
            changed["torch_dtype"] = dtype
    if tied is not None:
        changed[_TIED] = tied
        for section in _text_sections(changed):
            if _TIED in section:
                section[_TIED] = tied
    return json.dumps(changed, indent=2).encode() + b"\n"


def _without_place(value: Any) -> Any:
    """A copy without `_name_or_path`, which says where the original lay."""
    if isinstance(value, Mapping):
        return {k: _without_place(v) for k, v in value.items() if k != "_name_or_path"}
    if isinstance(value, list):
        return [_without_place(item) for item in value]
    return value


def _text_sections(config: dict[str, Any]) -> list[dict[str, Any]]:
    return [config[key] for key in TEXT_SECTIONS if isinstance(config.get(key), dict)]


def _set_layers(config: dict[str, Any], layers: Sequence[int]) -> None:
    sections = [config, *_text_sections(config)]
    counts = [count for section in sections if (count := _count(section)) is not None]
    for section in sections:
        # A section without a number of layers of its own speaks of the same layers.
        count = _count(section)
        old = count if count is not None else next(iter(counts), None)
        for key in count_keys(section):
            section[key] = len(layers)
        for key, value in section.items():
            per_layer = key in _PER_LAYER and isinstance(value, (list, str))
            if per_layer and value and len(value) == old:
                picked = [value[min(layer, len(value) - 1)] for layer in layers]
                section[key] = "".join(picked) if isinstance(value, str) else picked
            elif key in _LAYER_INDICES and isinstance(value, list):
                section[key] = [new for new, layer in enumerate(layers) if layer in value]


def _count(section: Mapping[str, Any]) -> int | None:
    return next((section[key] for key in count_keys(section)), None)


def _set_dtype(section: dict[str, Any], dtype: str) -> None:
    for key, value in section.items():
        if key in _DTYPES and (value is None or isinstance(value, str)):
            section[key] = dtype
        elif isinstance(value, dict):
            _set_dtype(value, dtype)
