"""Of what kind each layer is where a config does not list that, but has a rule that counts from the
first layer on: every sixth attends to everything, the first three have no experts.

Layers that are moved keep their kind, so a rule that no longer holds is written out as a list, or
changed; where neither can be said, `Unsayable`. Pure: works on sections of a config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

Kind: TypeAlias = bool | str
Section: TypeAlias = Mapping[str, Any]

_FULL: Final = "full_attention"
_SLIDING: Final = "sliding_attention"
_UNSAID: Final = {
    "gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4, "olmo3": 4,
}  # fmt: skip
"""Every how many layers one attends to everything, where configs of a type may leave that out."""


class Unsayable(ValueError):
    """Layers stand where this kind of config cannot say what they are."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`kinds` gives the kind of each of so many layers, None where a section has no such rule;
    `write` says other kinds in a section, or raises Unsayable."""

    kinds: Callable[[Section, int], list[Kind] | None]
    write: Callable[[dict[str, Any], list[Kind]], None]


def apply_rules(old: Section, new: dict[str, Any], count: int, layers: Sequence[int]) -> None:
    """Change `new`, made of the section `old` about `count` layers, so that its rules give each of
    `layers`, by their numbers in `old`, the kind that it has there. Raises Unsayable."""
    for rule in _RULES:
        before = rule.kinds(old, max([count, *(layer + 1 for layer in layers)]))
        after = rule.kinds(new, len(layers))
        if before is None or after is None:
            continue
        kinds = [before[layer] for layer in layers]
        if kinds != after:
            rule.write(new, kinds)


def _positive(section: Section, key: str) -> int:
    value = section.get(key)
    return value if type(value) is int and value > 0 else 0


def _listing(key: str) -> Callable[[dict[str, Any], list[Kind]], None]:
    def write(section: dict[str, Any], kinds: list[Kind]) -> None:
        section[key] = kinds

    return write


def _windows(section: Section, count: int) -> list[Kind] | None:
    """Gemma, Cohere: every n-th layer attends to everything."""
    step = _positive(section, "sliding_window_pattern") or _UNSAID.get(
        str(section.get("model_type")), 0
    )
    if section.get("layer_types") or step < 2:
        return None
    return [_SLIDING if (i + 1) % step else _FULL for i in range(count)]


def _late_windows(section: Section, count: int) -> list[Kind] | None:
    """Qwen2: layers from the n-th on see a window only."""
    first = section.get("max_window_layers")
    if section.get("layer_types") or section.get("use_sliding_window") is not True:
        return None
    if type(first) is not int:
        return None
    return [_SLIDING if i >= first else _FULL for i in range(count)]


def _linear(section: Section, count: int) -> list[Kind] | None:
    """Qwen3-Next: every n-th layer has full attention, the others linear."""
    step = _positive(section, "full_attention_interval")
    if section.get("layer_types") or step < 2:
        return None
    return ["linear_attention" if (i + 1) % step else _FULL for i in range(count)]


def _no_rope(section: Section, count: int) -> list[Kind] | None:
    """SmolLM3, Llama 4: every n-th layer has no rotary embedding."""
    step = _positive(section, "no_rope_layer_interval")
    if section.get("no_rope_layers") or step < 1:
        return None
    return [(i + 1) % step != 0 for i in range(count)]


def _write_no_rope(section: dict[str, Any], kinds: list[Kind]) -> None:
    section["no_rope_layers"] = [int(kind is True) for kind in kinds]


def _sparse_steps(section: Section, count: int) -> list[Kind] | None:
    """Qwen MoE: every n-th layer has experts, unless it is listed as one that has none."""
    step = _positive(section, "decoder_sparse_step")
    if step < 2:
        return None
    dense = section.get("mlp_only_layers") or ()
    return [i not in dense and (i + 1) % step == 0 for i in range(count)]


def _write_sparse_steps(section: dict[str, Any], kinds: list[Kind]) -> None:
    section["decoder_sparse_step"] = 1
    section["mlp_only_layers"] = [i for i, sparse in enumerate(kinds) if not sparse]


def _interleaved(section: Section, count: int) -> list[Kind] | None:
    """Llama 4: every n-th layer has experts."""
    step = _positive(section, "interleave_moe_layer_step")
    if section.get("moe_layers") is not None or step < 1:
        return None
    return [(i + 1) % step == 0 for i in range(count)]


def _write_interleaved(section: dict[str, Any], kinds: list[Kind]) -> None:
    section["moe_layers"] = [i for i, sparse in enumerate(kinds) if sparse]


def _first_dense(section: Section, count: int) -> list[Kind] | None:
    """DeepSeek, GLM: the first k layers have no experts."""
    first = section.get("first_k_dense_replace")
    if section.get("mlp_layer_types") or type(first) is not int:
        return None
    return [i < first for i in range(count)]


def _write_first_dense(section: dict[str, Any], kinds: list[Kind]) -> None:
    first = sum(kind is True for kind in kinds)
    if not all(kinds[:first]):
        raise Unsayable(
            "layers without experts stand behind layers with experts, which the config's "
            "'first_k_dense_replace' cannot say"
        )
    section["first_k_dense_replace"] = first


def _periodic(period: str, offset: str) -> Rule:
    """Jamba: every n-th layer from one on is of a kind, which cannot be said otherwise."""

    def kinds(section: Section, count: int) -> list[Kind] | None:
        step, first = _positive(section, period), section.get(offset)
        if step < 2 or type(first) is not int:
            return None
        return [i % step == first for i in range(count)]

    def write(section: dict[str, Any], kinds: list[Kind]) -> None:
        raise Unsayable(f"layers stand where the config's '{period}' makes them of another kind")

    return Rule(kinds, write)


def _local(section: Section, count: int) -> list[Kind] | None:
    """GPT-Neo: runs of kinds, each with how often it comes."""
    said = section.get("attention_types")
    found: list[Kind] = []
    for run in said if isinstance(said, list) else ():
        if not isinstance(run, list) or len(run) != 2 or not isinstance(run[0], list):
            return None
        times = run[1] if type(run[1]) is int else 0
        found += [str(kind) for kind in run[0]] * min(times, count)
    return (found + found[-1:] * count)[:count] if found else None


def _write_local(section: dict[str, Any], kinds: list[Kind]) -> None:
    section["attention_types"] = [[kinds, 1]]


_RULES: Final = (
    Rule(_windows, _listing("layer_types")),
    Rule(_late_windows, _listing("layer_types")),
    Rule(_linear, _listing("layer_types")),
    Rule(_no_rope, _write_no_rope),
    Rule(_sparse_steps, _write_sparse_steps),
    Rule(_interleaved, _write_interleaved),
    Rule(_first_dense, _write_first_dense),
    _periodic("attn_layer_period", "attn_layer_offset"),
    _periodic("expert_layer_period", "expert_layer_offset"),
    Rule(_local, _write_local),
)
