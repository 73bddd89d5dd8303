"""The architectures of mixtures that dense models can be made into: names of tensors, and config.

What a mixture computes beside its experts has to be what the dense model computes, so this is a
table of architectures, unlike everything else about structure. Pure: nothing is read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

PROJECTIONS: Final = ("gate_proj", "up_proj", "down_proj")
"""What every dense model here calls the weights of its feed-forward layers, the last one last."""

_ATTENTION: Final = tuple(f"self_attn.{name}_proj" for name in "qkvo")
_NORMS: Final = ("input_layernorm.weight", "post_attention_layernorm.weight")


@dataclass(frozen=True, slots=True)
class Architecture:
    """One of them. Names are those within a layer.

    `dense` are the model types that it is made from. `needed` and `allowed` are the tensors of a
    dense layer, feed-forward aside, that it must and may have. `expert` and `shared` are followed
    by a projection's name.
    """

    name: str
    model: str
    dense: tuple[str, ...]
    needed: tuple[str, ...]
    allowed: tuple[str, ...]
    router: str
    expert: str
    projections: tuple[str, str, str]
    shared: str | None = None
    shared_gate: str | None = None


_BASIC: Final = (*_NORMS, *(f"{name}.weight" for name in _ATTENTION))
_QWEN: Final = ("mlp.gate.weight", "mlp.experts.{}.", PROJECTIONS)

ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    one.name: one
    for one in (
        Architecture(
            "mixtral", "MixtralForCausalLM", ("llama", "mistral"), _BASIC, (),
            "block_sparse_moe.gate.weight", "block_sparse_moe.experts.{}.", ("w1", "w3", "w2"),
        ),
        Architecture(
            "qwen2_moe", "Qwen2MoeForCausalLM", ("qwen2", "llama"), _BASIC,
            tuple(f"{name}.bias" for name in _ATTENTION[:3]), *_QWEN,
            shared="mlp.shared_expert.", shared_gate="mlp.shared_expert_gate.weight",
        ),
        Architecture(
            "qwen3_moe", "Qwen3MoeForCausalLM", ("qwen3",),
            (*_BASIC, "self_attn.q_norm.weight", "self_attn.k_norm.weight"),
            tuple(f"{name}.bias" for name in _ATTENTION), *_QWEN,
        ),
    )
}  # fmt: skip

_SILENT: Final[Mapping[str, Mapping[str, Any]]] = {
    "llama": {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "sliding_window": None},
    "mistral": {"rms_norm_eps": 1e-6, "max_position_embeddings": 131072, "sliding_window": 4096},
    "qwen2": {"rms_norm_eps": 1e-6, "max_position_embeddings": 32768},
    "qwen3": {"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "head_dim": 128},
}
"""What a dense model takes where its config is silent; a mixture's own defaults are others."""
_THETA: Final = 10000.0
_DROPPED: Final = ("auto_map", "mlp_bias", "pretraining_tp", "architectures", "model_type")


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a mixture's tensors say: `wide` is the experts' inner size, `shared` that of the shared
    expert, `keys` the rows of k_proj."""

    experts: int
    per_token: int
    layers: int
    wide: int
    shared: int | None
    keys: int


def chosen(model_type: str | None, shared: bool) -> str | None:
    """The architecture that a dense model becomes unless another is named."""
    if model_type == "qwen2" or shared:
        return "qwen2_moe"
    return next((n for n, a in ARCHITECTURES.items() if model_type in a.dense), None)


def misfit(architecture: Architecture, config: Mapping[str, Any]) -> str | None:
    """Why a dense model's config cannot be said by the mixture's, if so."""
    if architecture.name == "qwen3_moe" and config.get("use_sliding_window"):
        return "it has layers with a sliding window, which this architecture cannot have"
    return None


def mixture_config(
    architecture: Architecture, config: Mapping[str, Any], sizes: Sizes
) -> dict[str, Any]:
    """The config of the mixture, from that of the dense model that all but the experts is from."""
    dense = str(config["model_type"])
    made = {
        "architectures": [architecture.model],
        "model_type": architecture.name,
        **{key: value for key, value in config.items() if key not in _DROPPED},
    }
    for key, value in _SILENT[dense].items():
        made.setdefault(key, value)
    if "rope_theta" not in made and "rope_theta" not in (made.get("rope_parameters") or {}):
        made["rope_theta"] = _THETA
    heads = made.get("num_attention_heads", 32)
    head = made.get("head_dim") or made["hidden_size"] // heads
    made |= {
        "num_attention_heads": heads,
        "num_key_value_heads": sizes.keys // head,
        "num_hidden_layers": sizes.layers,
        "num_experts_per_tok": sizes.per_token,
        "output_router_logits": False,
    }
    if architecture.name == "mixtral":
        made.pop("attention_bias", None)
        return made | {"num_local_experts": sizes.experts, "intermediate_size": sizes.wide}
    made |= {
        "num_experts": sizes.experts,
        "moe_intermediate_size": sizes.wide,
        "norm_topk_prob": True,  # else the weights of a token's experts do not add up to 1
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }
    if architecture.name == "qwen2_moe":
        made["shared_expert_intermediate_size"] = sizes.shared
        made["qkv_bias"] = dense == "qwen2"
        if made.get("use_sliding_window") and "layer_types" not in made:
            first = made.get("max_window_layers", 28)
            made["layer_types"] = [
                "full_attention" if layer < first else "sliding_attention"
                for layer in range(sizes.layers)
            ]
    return made
