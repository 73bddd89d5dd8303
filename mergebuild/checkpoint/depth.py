"""How many layers a config says that a stack has, and what it says of each of them.

Finds where in a config that stands and changes it for layers that were left out, repeated or
moved. Pure: changes sections of a config that it is given. Knows stacks by prefix and role, and no
tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mergebuild.checkpoint.layer_rules import Unsayable, apply_rules
from mergebuild.checkpoint.stacks import DECODER_COUNTS, TEXT_SECTIONS, Stack, count_keys

_PER_LAYER: Final = frozenset({
    "layer_types", "layers_block_type", "block_types", "attention_layers", "mlp_layer_types",
    "no_rope_layers", "sliding_window_pattern", "hybrid_override_pattern", "attn_types",
    "num_key_value_heads", "num_attention_heads", "num_query_heads", "num_kv_heads",
    "num_key_value_heads_per_layer", "num_attention_heads_per_layer", "layer_rope_theta",
    "ffn_multipliers", "intermediate_size", "block_configs", "sliding_window", "rope_theta",
    "moe_layer_freq", "indexer_types", "layer_ids", "window_attention_layers",
})  # fmt: skip
"""Keys whose value, if it is as long as there are layers, has an entry for each."""

_LAYER_INDICES: Final = frozenset({
    "mlp_only_layers", "moe_layers", "cross_attention_layers", "full_attn_idxs",
    "attn_layer_indices", "global_attn_indices", "global_attn_indexes", "full_attention_layers",
    "fullatt_block_indexes", "window_block_indexes", "window_block_indices", "hybrid_layer_ids",
    "local_layer_ids",
})  # fmt: skip
"""Keys whose value lists the layers of a kind by index."""

_TAPS: Final = frozenset({
    "deepstack_visual_indexes", "intermediate_layers_indices", "target_layer_ids",
})  # fmt: skip
"""Keys whose value lists layers whose output something else reads: each stays one."""

_ENCODER_COUNTS: Final = ("encoder_layers", "num_encoder_layers")
_TOWER_COUNTS: Final = ("num_hidden_layers", "depth", "num_layers", "n_layers", "layers")
_TOWERS: Final = {
    "vision_tower": ("vision", "visual", "vit", "image"),
    "audio_tower": ("audio", "speech"),
}
_LAYERS: Final = frozenset({"layers", "blocks", "depth"})
_WORD: Final = re.compile(r"[._]")


@dataclass(frozen=True, slots=True)
class Depth:
    """The layers that a stack has in the checkpoint that is written: for each the layer of the
    config's own model that it is made from. `main` says whether it is that model's main stack."""

    stack: Stack
    layers: Sequence[int]
    main: bool


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a config speaks of a stack: a section, and which of its keys are the number of layers;
    `alone` if what it says of layers is about this stack and no other."""

    section: dict[str, Any]
    counts: Sequence[str]
    alone: bool = True


def set_depth(config: dict[str, Any], depth: Depth) -> bool:
    """Make a config say the layers of a stack; whether it says their number anywhere.

    Raises Unsayable where it cannot say what kind of layers they are.
    """
    if depth.stack.role == ("decoder" if depth.main else "encoder"):
        _tell_apart(config)
    places = list(_places(config, depth))
    told = [place.section[key] for place in places for key in place.counts]
    for place in places:
        # A section without a number of layers of its own speaks of the same layers.
        own = [place.section[key] for key in place.counts]
        count = next(iter(own or told), None)
        old = dict(place.section)
        for key in place.counts:
            place.section[key] = len(depth.layers)
        if place.alone:
            _set_lists(place.section, count, depth.layers)
            if own and count is not None:
                apply_rules(old, place.section, count, depth.layers)
    return bool(told)


def _places(config: dict[str, Any], depth: Depth) -> Iterator[_Place]:
    role = depth.stack.role
    if depth.main:
        for section in (config, *_sections(config, (*TEXT_SECTIONS, "decoder"))):
            yield _Place(section, count_keys(section))
    elif role in _TOWERS:
        for section in _sections(config, [key for key in config if key.startswith(_TOWERS[role])]):
            counts = [key for key in _TOWER_COUNTS if type(section.get(key)) is int]
            yield _Place(section, counts or _numbers(section, _ENCODER_COUNTS))
    elif role == "encoder":
        yield _Place(config, _encoder_counts(config), alone=False)
        for section in _sections(config, ("encoder", "text_encoder")):
            yield _Place(section, count_keys(section))
    else:
        yield _Place(config, _namesakes(config, depth.stack), alone=False)


def _tell_apart(config: dict[str, Any]) -> None:
    """Give the decoder of a pair a number of its own, where `num_layers` speaks of both (T5)."""
    if not _numbers(config, DECODER_COUNTS) and _numbers(config, ("num_layers",)):
        config["num_decoder_layers"] = config["num_layers"]


def _sections(config: Mapping[str, Any], keys: Sequence[str]) -> list[dict[str, Any]]:
    return [config[key] for key in keys if isinstance(config.get(key), dict)]


def _numbers(section: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    return [key for key in keys if type(section.get(key)) is int]


def _encoder_counts(config: Mapping[str, Any]) -> list[str]:
    """The numbers of layers of an encoder beside a decoder: `num_hidden_layers` is its too where
    it says the same (BART), and `num_layers` if the decoder has a number of its own (T5)."""
    found = _numbers(config, _ENCODER_COUNTS)
    if found and config.get("num_hidden_layers") == config[found[0]]:
        found.append("num_hidden_layers")
    if _numbers(config, ("num_decoder_layers",)):
        found += _numbers(config, ("num_layers",))
    return found


def _namesakes(config: Mapping[str, Any], stack: Stack) -> list[str]:
    """The keys about layers that share a word with the stack's name and say its number of layers,
    such as `num_single_layers` of `single_transformer_blocks`."""
    own = set(_WORD.split(stack.prefix)) - _LAYERS - {""}
    return [
        key
        for key, value in config.items()
        if type(value) is int
        and value == stack.count
        and not _LAYERS.isdisjoint(words := key.split("_"))
        and not own.isdisjoint(words)
    ]


def _set_lists(section: dict[str, Any], count: int | None, layers: Sequence[int]) -> None:
    for key, value in section.items():
        if not isinstance(value, (list, str)):
            continue
        if key in _PER_LAYER and value and len(value) == count:
            picked = [value[min(layer, len(value) - 1)] for layer in layers]
            section[key] = "".join(picked) if isinstance(value, str) else picked
        elif key in _LAYER_INDICES and isinstance(value, list):
            section[key] = [new for new, layer in enumerate(layers) if layer in value]
        elif key in _TAPS and isinstance(value, list):
            section[key] = [_tapped(key, layer, layers) for layer in value]


def _tapped(key: str, layer: Any, layers: Sequence[int]) -> int:
    """Where the last copy of a layer is now."""
    found = [new for new, old in enumerate(layers) if old == layer]
    if not found:
        raise Unsayable(
            f"the config's '{key}' reads the output of layer {layer}, which is left out"
        )
    return found[-1]
